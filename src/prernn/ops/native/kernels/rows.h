/* Products with a matrix of compressed rows: linear in its entries. Lanes are WIDTH rows of the batch, so that an
   entry costs one multiplication of vectors and no gather; a batch of one row takes scalars. */

#define RECEIVERS 256 /* of a task */
#define BLOCK 256     /* rows that go back together, a multiple of WIDTH */
/* `body` for up to four gates from `gate` on, `gates` of them, a constant: their sums are in registers. */
#define FOR_GATES(all, body)                                    \
    for (int64_t gate = 0; gate < (all); gate += 4)              \
        switch ((all) - gate < 4 ? (int)((all) - gate) : 4) {    \
            FOR_GATES_CASE(1, body) FOR_GATES_CASE(2, body)      \
            FOR_GATES_CASE(3, body) FOR_GATES_CASE(4, body)      \
        }
#define FOR_GATES_CASE(number, body)  \
    case number: {                    \
        enum { gates = number };      \
        body;                         \
        break;                        \
    }
#define TURNED 64    /* columns that are turned at a time */
#define COLUMNS 16   /* columns that are written at a time: rows may lie a multiple of a cache's way apart */

struct rows_tasks {
    const struct rows_product *job;
    int64_t blocks, chunks, first; /* of receivers, of rows from `first` on */
    int64_t step;                  /* between columns on the way back: an odd number of vectors, for the caches' sake */
    float *h, *d_y, *d_h;          /* turned */
};

/* Rows of x (N, count) on their sides: column i of a chunk of WIDTH rows lies `column` * i + `chunk` * its number from the
   start of y; what lacks is 0. A few columns at a time, which then stay in the first-level cache until all rows are in. */
INLINE void turn_rows(const float *x, float *y, int64_t rows, int64_t count, int64_t column, int64_t chunk)
{
    for (int64_t begin = 0; begin < rows; begin += WIDTH, y += chunk)
        for (int64_t first = 0; first < count; first += TURNED) {
            int64_t stop = first + TURNED < count ? first + TURNED : count;
            for (int64_t n = 0; n < WIDTH; n++)
                for (int64_t i = first; i < stop; i++)
                    y[i * column + n] = begin + n < rows ? x[(begin + n) * count + i] : 0;
        }
}

/* ... and back. */
INLINE void return_rows(const float *y, float *x, int64_t rows, int64_t count, int64_t column, int64_t chunk)
{
    for (int64_t begin = 0; begin < rows; begin += WIDTH, y += chunk)
        for (int64_t first = 0; first < count; first += TURNED) {
            int64_t stop = first + TURNED < count ? first + TURNED : count;
            for (int64_t n = 0; n < WIDTH && begin + n < rows; n++)
                for (int64_t i = first; i < stop; i++)
                    x[(begin + n) * count + i] = y[i * column + n];
        }
}

static float *turned(int64_t numbers)
{
    return malloc(sizeof(float) * (size_t)(numbers ? numbers : 1));
}

static float bias_of(const struct rows_product *job, int64_t gate, int64_t receiver)
{
    return job->bias ? job->bias[gate * job->receivers + receiver] : 0;
}

typedef float four __attribute__((vector_size(16))); /* entries of one row at once: more take longer to be gathered */

/* The gates of one receiver together: what they meet of h is the same. */
INLINE void single_sums(const struct rows_product *job, int64_t receiver, int64_t gate, int gates)
{
    const float *weight = job->weight + gate * job->entries, *h = job->h;
    const int32_t *column = job->column;
    four sum[4] = {{0}};
    int64_t k = job->row_start[receiver], end = job->row_start[receiver + 1];
    for (; k + 4 <= end; k += 4) {
        four met = {h[column[k]], h[column[k + 1]], h[column[k + 2]], h[column[k + 3]]};
        for (int g = 0; g < gates; g++) {
            four own;
            memcpy(&own, weight + g * job->entries + k, sizeof own);
            sum[g] += own * met;
        }
    }
    for (; k < end; k++)
        for (int g = 0; g < gates; g++)
            sum[g][0] += weight[g * job->entries + k] * h[column[k]];
    for (int g = 0; g < gates; g++)
        job->y[(gate + g) * job->receivers + receiver] =
            bias_of(job, gate + g, receiver) + ((sum[g][0] + sum[g][1]) + (sum[g][2] + sum[g][3]));
}

static void single_row_task(void *context, int64_t task)
{
    const struct rows_product *job = ((struct rows_tasks *)context)->job;
    int64_t stop = (task + 1) * RECEIVERS < job->receivers ? (task + 1) * RECEIVERS : job->receivers;
    for (int64_t i = task * RECEIVERS; i < stop; i++)
        FOR_GATES(job->gates, single_sums(job, i, gate, gates));
}

INLINE void many_sums(const struct rows_product *job, const float *h, int64_t receiver, int64_t gate, int gates,
                      lanes *sums)
{
    const float *weight = job->weight + gate * job->entries;
    lanes even[4], odd[4];
    for (int g = 0; g < gates; g++) {
        even[g] = fill(bias_of(job, gate + g, receiver));
        odd[g] = fill(0);
    }
    int64_t k = job->row_start[receiver], end = job->row_start[receiver + 1];
    for (; k + 2 <= end; k += 2) {
        lanes first = load(h + (int64_t)job->column[k] * WIDTH), second = load(h + (int64_t)job->column[k + 1] * WIDTH);
        for (int g = 0; g < gates; g++) {
            even[g] += weight[g * job->entries + k] * first;
            odd[g] += weight[g * job->entries + k + 1] * second;
        }
    }
    if (k < end) {
        lanes last = load(h + (int64_t)job->column[k] * WIDTH);
        for (int g = 0; g < gates; g++)
            even[g] += weight[g * job->entries + k] * last;
    }
    for (int g = 0; g < gates; g++)
        sums[g * COLUMNS] = even[g] + odd[g];
}

/* `count` receivers from `first` on and up to four gates, of a chunk of rows. */
INLINE void many_rows(const struct rows_product *job, const float *h, int64_t chunk, int64_t first, int64_t count,
                      int64_t gate, int gates)
{
    lanes sums[4 * COLUMNS];
    int64_t rows = job->rows - chunk * WIDTH < WIDTH ? job->rows - chunk * WIDTH : WIDTH;
    for (int64_t j = 0; j < count; j++)
        many_sums(job, h, first + j, gate, gates, sums + j);
    for (int64_t n = 0; n < rows; n++)
        for (int g = 0; g < gates; g++) {
            float *y = job->y + ((chunk * WIDTH + n) * job->gates + gate + g) * job->receivers + first;
            for (int64_t j = 0; j < count; j++)
                y[j] = sums[g * COLUMNS + j][n];
        }
}

static void many_rows_task(void *context, int64_t task)
{
    const struct rows_tasks *tasks = context;
    const struct rows_product *job = tasks->job;
    int64_t chunk = task / tasks->blocks, first = task % tasks->blocks * RECEIVERS;
    int64_t stop = first + RECEIVERS < job->receivers ? first + RECEIVERS : job->receivers;
    const float *h = tasks->h + chunk * job->senders * WIDTH;
    for (int64_t i = first; i < stop; i += COLUMNS) {
        int64_t count = i + COLUMNS < stop ? COLUMNS : stop - i;
        FOR_GATES(job->gates, many_rows(job, h, chunk, i, count, gate, gates));
    }
}

/* Back to h: a receiver's gradients of all gates go along its entries, into chunks of rows of their own. */
INLINE void gradients_of_h(const struct rows_tasks *tasks, int64_t chunk, int64_t receiver, int64_t gate, int gates)
{
    const struct rows_product *job = tasks->job;
    const float *weight = job->weight + gate * job->entries;
    float *d_h = tasks->d_h + chunk * WIDTH;
    int64_t step = tasks->step;
    lanes d_y[4];
    for (int g = 0; g < gates; g++)
        d_y[g] = load(tasks->d_y + ((gate + g) * job->receivers + receiver) * step + chunk * WIDTH);
    for (int64_t k = job->row_start[receiver]; k < job->row_start[receiver + 1]; k++) {
        float *into = d_h + job->column[k] * step;
        lanes sum = load(into);
        for (int g = 0; g < gates; g++)
            sum += weight[g * job->entries + k] * d_y[g];
        store(into, sum);
    }
}

static void rows_h_task(void *context, int64_t chunk)
{
    const struct rows_tasks *tasks = context;
    const struct rows_product *job = tasks->job;
    for (int64_t j = 0; j < job->senders; j++)
        store(tasks->d_h + j * tasks->step + chunk * WIDTH, fill(0));
    for (int64_t i = 0; i < job->receivers; i++)
        FOR_GATES(job->gates, gradients_of_h(tasks, chunk, i, gate, gates));
}

INLINE void gradients_of_weights(const struct rows_tasks *tasks, int64_t receiver, int64_t gate, int gates)
{
    const struct rows_product *job = tasks->job;
    int64_t step = tasks->step;
    const float *d_y = tasks->d_y + (gate * job->receivers + receiver) * step;
    for (int64_t k = job->row_start[receiver]; k < job->row_start[receiver + 1]; k++) {
        const float *h = tasks->h + job->column[k] * step;
        lanes sums[4] = {{0}};
        for (int64_t n = 0; n < tasks->chunks * WIDTH; n += WIDTH) {
            lanes met = load(h + n);
            for (int g = 0; g < gates; g++)
                sums[g] += load(d_y + g * job->receivers * step + n) * met;
        }
        for (int g = 0; g < gates; g++) {
            float *into = job->d_weight + (gate + g) * job->entries + k;
            *into = (tasks->first ? *into : 0) + total(sums[g]);
        }
    }
}

static void rows_weight_task(void *context, int64_t task)
{
    const struct rows_tasks *tasks = context;
    const struct rows_product *job = tasks->job;
    int64_t first = task * RECEIVERS;
    int64_t stop = first + RECEIVERS < job->receivers ? first + RECEIVERS : job->receivers;
    for (int64_t i = first; i < stop; i++)
        FOR_GATES(job->gates, gradients_of_weights(tasks, i, gate, gates));
}

static int run_rows_product(const struct rows_product *job)
{
    struct rows_tasks tasks = {.job = job, .blocks = (job->receivers + RECEIVERS - 1) / RECEIVERS,
                               .chunks = (job->rows + WIDTH - 1) / WIDTH};
    if (job->rows == 1) {
        prernn_parallel(job->threads, tasks.blocks, single_row_task, &tasks);
        return 0;
    }
    tasks.h = turned(tasks.chunks * job->senders * WIDTH);
    if (!tasks.h)
        return 1;
    turn_rows(job->h, tasks.h, job->rows, job->senders, WIDTH, job->senders * WIDTH);
    prernn_parallel(job->threads, tasks.blocks * tasks.chunks, many_rows_task, &tasks);
    free(tasks.h);
    return 0;
}

/* The rows of one block, all chunks of a sender side by side. */
static void rows_backward_block(struct rows_tasks *tasks, int64_t rows)
{
    const struct rows_product *job = tasks->job;
    int64_t outputs = job->gates * job->receivers, from = tasks->first * job->senders;
    tasks->chunks = (rows + WIDTH - 1) / WIDTH;
    int64_t step = tasks->step = (tasks->chunks | 1) * WIDTH;
    turn_rows(job->h + from, tasks->h, rows, job->senders, step, WIDTH);
    turn_rows(job->d_y + tasks->first * outputs, tasks->d_y, rows, outputs, step, WIDTH);
    prernn_parallel(job->threads, tasks->chunks, rows_h_task, tasks);
    prernn_parallel(job->threads, tasks->blocks, rows_weight_task, tasks);
    return_rows(tasks->d_h, job->d_h + from, rows, job->senders, step, WIDTH);
}

static int run_rows_backward(const struct rows_product *job)
{
    int64_t most = (job->rows < BLOCK ? (job->rows + WIDTH - 1) / WIDTH * WIDTH : BLOCK) + WIDTH;
    struct rows_tasks tasks = {.job = job, .blocks = (job->receivers + RECEIVERS - 1) / RECEIVERS};
    tasks.h = turned(most * job->senders);
    tasks.d_h = turned(most * job->senders);
    tasks.d_y = turned(most * job->gates * job->receivers);
    int there = tasks.h && tasks.d_h && tasks.d_y;
    if (there && !job->rows)
        memset(job->d_weight, 0, sizeof(float) * (size_t)(job->gates * job->entries));
    for (tasks.first = 0; there && tasks.first < job->rows; tasks.first += BLOCK)
        rows_backward_block(&tasks, job->rows - tasks.first < BLOCK ? job->rows - tasks.first : BLOCK);
    free(tasks.h);
    free(tasks.d_h);
    free(tasks.d_y);
    return !there;
}
