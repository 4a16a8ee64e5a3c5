/* Products with inputs of which few are not zero: the weights lie by input, so that those of a zero are never read.
   Every output is one sum in the order of the inputs, whatever the number of rows, threads and lanes. */

#define FEW_OUTPUTS 1024 /* of a task: a row's own stay in the first cache */
#define FEW_INPUTS 64    /* whose weights stay in the second cache for the rows of a batch */
#define FEW_ALONE 1024   /* inputs at a time of a single row */
#define FEW_TOGETHER 4   /* inputs that share a load and a store of the outputs */

/* y[0..width) += sum over k < each of x[k] weight[input[k]]; `each` and `bfloat16` are constants. `ahead` are inputs
   whose turn comes next, or NULL. */
INLINE void add_inputs(const struct few_product *job, const float *x, const int32_t *input, const int32_t *ahead,
                       int64_t first, int64_t width, float *y, int each, int bfloat16)
{
    int64_t at[FEW_TOGETHER];
    for (int k = 0; k < each; k++)
        at[k] = input[k] * job->outputs + first;
    for (int64_t o = 0; o < width; o += WIDTH) {
        int count = width - o < WIDTH ? (int)(width - o) : WIDTH;
        if (ahead)
#pragma GCC unroll 4
            for (int k = 0; k < each; k++)
                __builtin_prefetch((const char *)job->weight + (ahead[k] * job->outputs + first + o) * (bfloat16 ? 2 : 4));
        lanes sum = count == WIDTH ? load(y + o) : load_some(y + o, count);
#pragma GCC unroll 4
        for (int k = 0; k < each; k++)
            sum += fill(x[k]) * (count == WIDTH ? load_any(job->weight, at[k] + o, bfloat16, WIDTH)
                                                : load_any(job->weight, at[k] + o, bfloat16, count));
        store_some(y + o, sum, count);
    }
}

/* Inputs `begin` to `end` of one row. */
INLINE void few_inputs(const struct few_product *job, int64_t row, int64_t begin, int64_t end, int64_t first,
                       int64_t width, int bfloat16)
{
    const float *x = job->x + row * job->inputs;
    float *y = job->y + row * job->outputs + first, value[FEW_ALONE];
    int32_t input[FEW_ALONE];
    int64_t found = 0, k = 0;
    for (int64_t i = begin; i < end; i++) {
        input[found] = (int32_t)i;
        value[found] = x[i];
        found += x[i] != 0;
    }
    for (; k + 2 * FEW_TOGETHER <= found; k += FEW_TOGETHER)
        add_inputs(job, value + k, input + k, input + k + FEW_TOGETHER, first, width, y, FEW_TOGETHER, bfloat16);
    for (; k + FEW_TOGETHER <= found; k += FEW_TOGETHER)
        add_inputs(job, value + k, input + k, NULL, first, width, y, FEW_TOGETHER, bfloat16);
    for (; k < found; k++)
        add_inputs(job, value + k, input + k, NULL, first, width, y, 1, bfloat16);
}

static void few_task(void *context, int64_t i)
{
    const struct few_product *job = context;
    int64_t first = i * FEW_OUTPUTS, width = job->outputs - first < FEW_OUTPUTS ? job->outputs - first : FEW_OUTPUTS;
    int64_t each = job->rows == 1 ? FEW_ALONE : FEW_INPUTS;
    for (int64_t row = 0; row < job->rows; row++)
        for (int64_t o = 0; o < width; o++)
            job->y[row * job->outputs + first + o] = job->bias ? job->bias[first + o] : 0;
    for (int64_t begin = 0; begin < job->inputs; begin += each)
        for (int64_t row = 0; row < job->rows; row++) {
            int64_t end = begin + each < job->inputs ? begin + each : job->inputs;
            if (job->bfloat16)
                few_inputs(job, row, begin, end, first, width, 1);
            else
                few_inputs(job, row, begin, end, first, width, 0);
        }
}

static int run_few_product(const struct few_product *job)
{
    prernn_parallel(job->threads, (job->outputs + FEW_OUTPUTS - 1) / FEW_OUTPUTS, few_task, (void *)job);
    return 0;
}
