/* Products with a matrix of compressed rows: linear in its entries. Lanes are WIDTH rows of the batch, so that an
   entry costs one multiplication of vectors and no gather; a batch of one row takes scalars. */

#define RECEIVERS 256 /* of a task */
#define TOGETHER 16   /* receivers whose sums are written side by side: rows may lie a multiple of a cache's way apart */

struct rows_tasks {
    const struct rows_product *job;
    int64_t blocks, chunks;
    const float *h, *d_y; /* (chunks, senders, WIDTH) and (chunks, G * receivers, WIDTH) */
    float *d_weight;
};

/* (N, count) to (chunks, count, WIDTH), the missing rows 0. NULL where memory ran out. A few columns at a time: a column
   that all rows of a chunk fill one after the other stays in the first-level cache meanwhile. */
static float *turn_rows(const float *x, int64_t rows, int64_t count)
{
    int64_t chunks = (rows + WIDTH - 1) / WIDTH;
    float *y = calloc((size_t)(chunks * count * WIDTH) + 1, sizeof *y);
    if (y)
        for (int64_t chunk = 0; chunk < rows; chunk += WIDTH)
            for (int64_t first = 0; first < count; first += RECEIVERS) {
                int64_t stop = first + RECEIVERS < count ? first + RECEIVERS : count;
                for (int64_t row = chunk; row < rows && row < chunk + WIDTH; row++)
                    for (int64_t i = first; i < stop; i++)
                        y[chunk * count + i * WIDTH + row - chunk] = x[row * count + i];
            }
    return y;
}

static float bias_of(const struct rows_product *job, int64_t gate, int64_t receiver)
{
    return job->bias ? job->bias[gate * job->receivers + receiver] : 0;
}

static void single_row_task(void *context, int64_t task)
{
    const struct rows_product *job = ((struct rows_tasks *)context)->job;
    int64_t stop = (task + 1) * RECEIVERS < job->receivers ? (task + 1) * RECEIVERS : job->receivers;
    for (int64_t i = task * RECEIVERS; i < stop; i++)
        for (int64_t g = 0; g < job->gates; g++) {
            const float *weight = job->weight + g * job->entries;
            float sum[4] = {0}; /* four chains of additions at once */
            int64_t k = job->row_start[i], end = job->row_start[i + 1];
            for (; k + 4 <= end; k += 4)
                for (int j = 0; j < 4; j++)
                    sum[j] += weight[k + j] * job->h[job->column[k + j]];
            for (; k < end; k++)
                sum[0] += weight[k] * job->h[job->column[k]];
            job->y[g * job->receivers + i] = bias_of(job, g, i) + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
        }
}

/* One receiver of a gate, for a chunk of rows. */
INLINE lanes row_sum(const struct rows_product *job, const float *h, int64_t gate, int64_t receiver)
{
    const float *weight = job->weight + gate * job->entries;
    lanes even = fill(bias_of(job, gate, receiver)), odd = {0};
    int64_t k = job->row_start[receiver], end = job->row_start[receiver + 1];
    for (; k + 2 <= end; k += 2) {
        even += weight[k] * load(h + (int64_t)job->column[k] * WIDTH);
        odd += weight[k + 1] * load(h + (int64_t)job->column[k + 1] * WIDTH);
    }
    if (k < end)
        even += weight[k] * load(h + (int64_t)job->column[k] * WIDTH);
    return even + odd;
}

static void many_rows_task(void *context, int64_t task)
{
    const struct rows_tasks *tasks = context;
    const struct rows_product *job = tasks->job;
    int64_t chunk = task / tasks->blocks, first = task % tasks->blocks * RECEIVERS;
    int64_t stop = first + RECEIVERS < job->receivers ? first + RECEIVERS : job->receivers;
    int64_t rows = job->rows - chunk * WIDTH < WIDTH ? job->rows - chunk * WIDTH : WIDTH;
    const float *h = tasks->h + chunk * job->senders * WIDTH;
    lanes sums[TOGETHER];
    for (int64_t i = first; i < stop; i += TOGETHER) {
        int64_t count = i + TOGETHER < stop ? TOGETHER : stop - i;
        for (int64_t g = 0; g < job->gates; g++) {
            for (int64_t j = 0; j < count; j++)
                sums[j] = row_sum(job, h, g, i + j);
            for (int64_t n = 0; n < rows; n++) {
                float *y = job->y + ((chunk * WIDTH + n) * job->gates + g) * job->receivers + i;
                for (int64_t j = 0; j < count; j++)
                    y[j] = sums[j][n];
            }
        }
    }
}

static void rows_weight_task(void *context, int64_t task)
{
    const struct rows_tasks *tasks = context;
    const struct rows_product *job = tasks->job;
    int64_t first = task * RECEIVERS, outputs = job->gates * job->receivers;
    int64_t stop = first + RECEIVERS < job->receivers ? first + RECEIVERS : job->receivers;
    for (int64_t i = first; i < stop; i++)
        for (int64_t g = 0; g < job->gates; g++)
            for (int64_t k = job->row_start[i]; k < job->row_start[i + 1]; k++) {
                lanes sum = {0};
                for (int64_t chunk = 0; chunk < tasks->chunks; chunk++)
                    sum += load(tasks->d_y + (chunk * outputs + g * job->receivers + i) * WIDTH) *
                           load(tasks->h + (chunk * job->senders + job->column[k]) * WIDTH);
                tasks->d_weight[g * job->entries + k] = total(sum);
            }
}

static struct rows_tasks tasks_of(const struct rows_product *job)
{
    int64_t blocks = (job->receivers + RECEIVERS - 1) / RECEIVERS, chunks = (job->rows + WIDTH - 1) / WIDTH;
    return (struct rows_tasks){.job = job, .blocks = blocks, .chunks = chunks};
}

static int run_rows_product(const struct rows_product *job)
{
    struct rows_tasks tasks = tasks_of(job);
    if (job->rows == 1) {
        prernn_parallel(job->threads, tasks.blocks, single_row_task, &tasks);
        return 0;
    }
    float *h = turn_rows(job->h, job->rows, job->senders);
    if (!h)
        return 1;
    tasks.h = h;
    prernn_parallel(job->threads, tasks.blocks * tasks.chunks, many_rows_task, &tasks);
    free(h);
    return 0;
}

static int run_rows_weight(const struct rows_product *job, float *d_weight, const float *d_y)
{
    struct rows_tasks tasks = tasks_of(job);
    float *h = turn_rows(job->h, job->rows, job->senders);
    float *turned = turn_rows(d_y, job->rows, job->gates * job->receivers);
    tasks.h = h;
    tasks.d_y = turned;
    tasks.d_weight = d_weight;
    if (h && turned)
        prernn_parallel(job->threads, tasks.blocks, rows_weight_task, &tasks);
    free(h);
    free(turned);
    return !h || !turned;
}
