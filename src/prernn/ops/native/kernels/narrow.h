/* Products with weights of few bits, bfloat16 or signed 8-bit integers, summed in float32. With few rows in the batch
   they take as long as the weights take to come from memory, so that half or a quarter of the bytes is what they gain.
   Each weight is widened once for up to NARROW_ROWS rows of the batch. */

#define NARROW_ROWS 4
#if WIDTH == 16
#define NARROW_TILE 4 /* outputs that share what is read of x; more than there are registers for would not pay */
#else
#define NARROW_TILE 2
#endif
#define NARROW_OUTPUTS 32 /* of a task */

typedef int8_t bytes __attribute__((vector_size(WIDTH)));

INLINE lanes load_narrow(const void *p, int64_t at, int eight, int count)
{
    if (!eight)
        return load_any(p, at, 1, count);
    bytes x = {0};
    memcpy(&x, (const int8_t *)p + at, (size_t)count);
#if WIDTH == 16 /* GCC takes the lanes apart */
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)x));
#elif WIDTH == 8
    __m128i low = {0};
    memcpy(&low, &x, sizeof x);
    return (lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
#else
    return __builtin_convertvector(__builtin_convertvector(x, bits), lanes);
#endif
}

/* Output r of `rows` rows of the batch from row n on; `rows`, `each` and `eight` are constants. */
INLINE void narrow_output(const struct narrow_product *job, int64_t r, int64_t n, int rows, int each, int eight)
{
    int64_t at = job->begin ? job->begin[r] : r * job->inputs;
    int64_t count = job->begin ? job->count[r] : job->inputs, k = 0;
    const float *x = job->x + n * job->inputs + (job->begin ? job->first[r] : 0);
    lanes sum[NARROW_ROWS][4] = {{{0}}};
    for (; k + each * WIDTH <= count; k += each * WIDTH)
#pragma GCC unroll 4
        for (int part = 0; part < each; part++) {
            ask_ahead((const char *)job->weight + (at + k + part * WIDTH) * (eight ? 1 : 2), AHEAD);
            lanes w = load_narrow(job->weight, at + k + part * WIDTH, eight, WIDTH);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++)
                sum[i][part] += w * load(x + i * job->inputs + k + part * WIDTH);
        }
    for (; k < count; k += WIDTH) {
        int left = count - k < WIDTH ? (int)(count - k) : WIDTH;
        lanes w = load_narrow(job->weight, at + k, eight, left);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++)
            sum[i][0] += w * load_some(x + i * job->inputs + k, left);
    }
    float scale = job->scale ? job->scale[r] : 1, bias = job->bias ? job->bias[r] : 0;
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        lanes all = sum[i][0];
#pragma GCC unroll 4
        for (int part = 1; part < each; part++)
            all += sum[i][part];
        job->y[(n + i) * job->outputs + r] = total(all) * scale + bias;
    }
}

/* NARROW_TILE outputs of dense weights, or of one segment, for NARROW_ROWS rows: x would not stay in the first cache. */
INLINE void narrow_tile(const struct narrow_product *job, int64_t r, int64_t n, int eight)
{
    int64_t count = job->begin ? job->count[r] : job->inputs, whole = count - count % WIDTH;
    const float *x = job->x + n * job->inputs + (job->begin ? job->first[r] : 0);
    int64_t next = NARROW_TILE * count * (eight ? 1 : 2), ahead = next > AHEAD ? next : AHEAD; /* the next tile's */
    lanes sum[NARROW_TILE][NARROW_ROWS] = {{{0}}};
    for (int64_t k = 0; k < count; k += WIDTH) {
        int left = k < whole ? WIDTH : (int)(count - k);
        lanes given[NARROW_ROWS];
#pragma GCC unroll 4
        for (int i = 0; i < NARROW_ROWS; i++)
            given[i] = left == WIDTH ? load(x + i * job->inputs + k) : load_some(x + i * job->inputs + k, left);
#pragma GCC unroll 4
        for (int o = 0; o < NARROW_TILE; o++) {
            int64_t at = (job->begin ? job->begin[r + o] : (r + o) * job->inputs) + k;
            ask_ahead((const char *)job->weight + at * (eight ? 1 : 2), ahead);
            lanes w = left == WIDTH ? load_narrow(job->weight, at, eight, WIDTH)
                                    : load_narrow(job->weight, at, eight, left);
#pragma GCC unroll 4
            for (int i = 0; i < NARROW_ROWS; i++)
                sum[o][i] += w * given[i];
        }
    }
#pragma GCC unroll 4
    for (int o = 0; o < NARROW_TILE; o++)
#pragma GCC unroll 4
        for (int i = 0; i < NARROW_ROWS; i++) {
            float scale = job->scale ? job->scale[r + o] : 1, bias = job->bias ? job->bias[r + o] : 0;
            job->y[(n + i) * job->outputs + r + o] = total(sum[o][i]) * scale + bias;
        }
}

INLINE int alike(const struct narrow_product *job, int64_t r)
{
    for (int o = 1; job->begin && o < NARROW_TILE; o++)
        if (job->first[r + o] != job->first[r] || job->count[r + o] != job->count[r])
            return 0;
    return 1;
}

INLINE void narrow_outputs(const struct narrow_product *job, int64_t r, int64_t end, int eight)
{
    int64_t n = 0;
    for (; n + NARROW_ROWS <= job->rows; n += NARROW_ROWS)
        for (int64_t i = r; i < end;) {
            if (i + NARROW_TILE <= end && alike(job, i)) {
                narrow_tile(job, i, n, eight);
                i += NARROW_TILE;
                continue;
            }
            narrow_output(job, i, n, NARROW_ROWS, 2, eight);
            i++;
        }
    for (; n + 2 <= job->rows; n += 2)
        for (int64_t i = r; i < end; i++)
            narrow_output(job, i, n, 2, 4, eight);
    for (; n < job->rows; n++)
        for (int64_t i = r; i < end; i++)
            narrow_output(job, i, n, 1, 4, eight);
}

static void narrow_task(void *context, int64_t i)
{
    const struct narrow_product *job = context;
    int64_t r = i * NARROW_OUTPUTS, end = r + NARROW_OUTPUTS < job->outputs ? r + NARROW_OUTPUTS : job->outputs;
    if (job->eight)
        narrow_outputs(job, r, end, 1);
    else
        narrow_outputs(job, r, end, 0);
}

static int run_narrow_product(const struct narrow_product *job)
{
    int64_t tasks = (job->outputs + NARROW_OUTPUTS - 1) / NARROW_OUTPUTS;
    prernn_parallel(job->threads, tasks, narrow_task, (void *)job);
    return 0;
}
