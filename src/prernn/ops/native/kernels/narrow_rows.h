/* Products with a matrix of compressed rows whose weights have few bits. Those of up to four gates at one place lie side by
   side, so that they are widened and multiplied together, and what they meet of h is read once. */

typedef float quad __attribute__((vector_size(16)));

/* `gates` weights from `at` on, a constant; the rest 0. */
INLINE quad load_quad(const void *weight, int64_t at, int eight, int gates)
{
    if (!eight) {
        uint16_t x __attribute__((vector_size(8))) = {0};
        memcpy(&x, (const uint16_t *)weight + at, 2 * (size_t)gates);
#if WIDTH > 4
        return (quad)_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)&x)), 16);
#else
        typedef uint32_t words __attribute__((vector_size(16)));
        return (quad)(__builtin_convertvector(x, words) << 16);
#endif
    }
    int32_t x = 0;
    memcpy(&x, (const int8_t *)weight + at, (size_t)gates);
#if WIDTH > 4
    return (quad)_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(x)));
#else
    int8_t part __attribute__((vector_size(4)));
    memcpy(&part, &x, sizeof part);
    return __builtin_convertvector(part, quad);
#endif
}

/* What a block of receivers sums up to, rows of the batch by gates by receivers: written together, as rows and gates may
   lie a multiple of a cache's way apart. */
typedef float narrow_block[WIDTH > NARROW_ROWS ? WIDTH : NARROW_ROWS][4][COLUMNS];

INLINE void write_block(const struct narrow_rows *job, narrow_block sums, int64_t first, int64_t count, int64_t n,
                        int64_t rows, int64_t gate, int gates)
{
    for (int64_t i = 0; i < rows; i++)
        for (int g = 0; g < gates; g++) {
            int64_t at = (gate + g) * job->receivers + first;
            float *y = job->y + (n + i) * job->gates * job->receivers + at, *sum = sums[i][g];
            for (int64_t j = 0; job->scale && j < count; j++)
                sum[j] *= job->scale[at + j];
            for (int64_t j = 0; job->bias && j < count; j++)
                sum[j] += job->bias[at + j];
            memcpy(y, sum, sizeof *y * (size_t)count);
        }
}

/* Up to four gates of receiver first + j for `rows` rows from n on; `rows`, `gates` and `eight` are constants. */
INLINE void narrow_sums(const struct narrow_rows *job, int64_t first, int64_t j, int64_t n, int64_t gate, int gates,
                        int rows, int eight, narrow_block sums)
{
    const float *h = job->h + n * job->senders;
    quad sum[NARROW_ROWS][2] = {{{0}}}; /* two chains of additions at once */
    int64_t k = job->row_start[first + j], end = job->row_start[first + j + 1];
    for (; k + 2 <= end; k += 2)
#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) {
            quad w = load_quad(job->weight, (k + part) * job->stride + gate, eight, gates);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++)
                sum[i][part] += w * h[i * job->senders + job->column[k + part]];
        }
    if (k < end) {
        quad w = load_quad(job->weight, k * job->stride + gate, eight, gates);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++)
            sum[i][0] += w * h[i * job->senders + job->column[k]];
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        quad all = sum[i][0] + sum[i][1];
        for (int g = 0; g < gates; g++)
            sums[i][g][j] = all[g];
    }
}

INLINE void narrow_few(const struct narrow_rows *job, int64_t first, int64_t count, int64_t n, int64_t gate, int gates,
                       int rows, int eight)
{
    narrow_block sums;
    for (int64_t j = 0; j < count; j++)
        narrow_sums(job, first, j, n, gate, gates, rows, eight, sums);
    write_block(job, sums, first, count, n, rows, gate, gates);
}

/* Up to NARROW_ROWS rows: a weight of each gate is a vector. */
INLINE void narrow_receivers(const struct narrow_rows *job, int64_t first, int64_t count, int64_t gate, int gates,
                             int eight)
{
    int64_t n = 0;
    if (job->rows == NARROW_ROWS) {
        narrow_few(job, first, count, 0, gate, gates, NARROW_ROWS, eight);
        return;
    }
    for (; n + 2 <= job->rows; n += 2)
        narrow_few(job, first, count, n, gate, gates, 2, eight);
    if (n < job->rows)
        narrow_few(job, first, count, n, gate, gates, 1, eight);
}

/* A chunk of rows turned on their sides, as `many_sums` of rows.h: an input of each is a vector. */
INLINE void narrow_many(const struct narrow_rows *job, const float *h, int64_t chunk, int64_t first, int64_t count,
                        int64_t gate, int gates, int eight)
{
    narrow_block out;
    for (int64_t j = 0; j < count; j++) {
        lanes sums[4] = {{0}};
        for (int64_t k = job->row_start[first + j]; k < job->row_start[first + j + 1]; k++) {
            quad w = load_quad(job->weight, k * job->stride + gate, eight, gates);
            lanes met = load(h + (int64_t)job->column[k] * WIDTH);
#pragma GCC unroll 4
            for (int g = 0; g < gates; g++)
                sums[g] += w[g] * met;
        }
#pragma GCC unroll 4
        for (int g = 0; g < gates; g++)
            for (int i = 0; i < WIDTH; i++)
                out[i][g][j] = sums[g][i];
    }
    int64_t n = chunk * WIDTH, rows = job->rows - n < WIDTH ? job->rows - n : WIDTH;
    write_block(job, out, first, count, n, rows, gate, gates);
}

struct narrow_rows_tasks {
    const struct narrow_rows *job;
    int64_t blocks;
    float *h; /* turned */
};

static void narrow_rows_task(void *context, int64_t task)
{
    const struct narrow_rows *job = ((struct narrow_rows_tasks *)context)->job;
    int64_t stop = (task + 1) * RECEIVERS < job->receivers ? (task + 1) * RECEIVERS : job->receivers;
    for (int64_t i = task * RECEIVERS; i < stop; i += COLUMNS) {
        int64_t count = i + COLUMNS < stop ? COLUMNS : stop - i;
        if (job->eight)
            FOR_GATES(job->gates, narrow_receivers(job, i, count, gate, gates, 1))
        else
            FOR_GATES(job->gates, narrow_receivers(job, i, count, gate, gates, 0))
    }
}

static void narrow_chunks_task(void *context, int64_t task)
{
    const struct narrow_rows_tasks *tasks = context;
    const struct narrow_rows *job = tasks->job;
    int64_t chunk = task / tasks->blocks, first = task % tasks->blocks * RECEIVERS;
    int64_t stop = first + RECEIVERS < job->receivers ? first + RECEIVERS : job->receivers;
    const float *h = tasks->h + chunk * job->senders * WIDTH;
    for (int64_t i = first; i < stop; i += COLUMNS) {
        int64_t count = i + COLUMNS < stop ? COLUMNS : stop - i;
        if (job->eight)
            FOR_GATES(job->gates, narrow_many(job, h, chunk, i, count, gate, gates, 1))
        else
            FOR_GATES(job->gates, narrow_many(job, h, chunk, i, count, gate, gates, 0))
    }
}

static int run_narrow_rows(const struct narrow_rows *job)
{
    struct narrow_rows_tasks tasks = {job, (job->receivers + RECEIVERS - 1) / RECEIVERS, NULL};
    int64_t chunks = (job->rows + WIDTH - 1) / WIDTH;
    if (job->rows <= NARROW_ROWS) {
        prernn_parallel(job->threads, tasks.blocks, narrow_rows_task, &tasks);
        return 0;
    }
    tasks.h = turned(chunks * job->senders * WIDTH);
    if (!tasks.h)
        return 1;
    turn_rows(job->h, tasks.h, job->rows, job->senders, WIDTH, job->senders * WIDTH);
    prernn_parallel(job->threads, tasks.blocks * chunks, narrow_chunks_task, &tasks);
    free(tasks.h);
    return 0;
}
