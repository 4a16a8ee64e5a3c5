/* Products along paths (the talk "Structural Sparsity", networks represented by paths): each path adds its weight times
   what its source holds to its destination. Weights and indices are streamed once, in the order in which they are
   given, for every SIDE rows of the batch, which stand in lanes; a batch of one row takes the talk's scalar loop. */

#define TOGETHER 2 /* vectors of rows for each load of a path's weight and indices */
#define SIDE (TOGETHER * WIDTH)
#define PATHS 2048 /* of a task of the weights' gradient */
#define SOME 128   /* whose sums stay in the first-level cache */
#define NEURONS 64 /* turned at once, for the same reason */

struct path_tasks {
    const struct path_product *job;
    int64_t groups, blocks, crew;
    float *x, *y; /* (groups or crew, place(inputs), SIDE) and (groups or crew, place(outputs), SIDE) */
};

/* Where neuron i stands. Sobol' paths go through the neurons in steps of large powers of two, which would all fall into
   the same few places of the first-level cache; a gap after every 32 neurons spreads them. */
INLINE int64_t place(int64_t i)
{
    return i + (i >> 5);
}

/* 1 where a path would read or write outside. */
static int beyond(const int32_t *index, int64_t paths, int64_t size)
{
    uint32_t limit = size <= INT32_MAX ? (uint32_t)size : 1u << 31, any = 0; /* from there on they are negative */
    for (int64_t p = 0; p < paths; p++)
        any |= (uint32_t)index[p] >= limit;
    return (int)any;
}

/* Rows of group `group`, and the vectors that hold them. */
INLINE int64_t rows_of(const struct path_product *job, int64_t group, int *together)
{
    int64_t rows = job->rows - group * SIDE < SIDE ? job->rows - group * SIDE : SIDE;
    *together = (int)((rows + WIDTH - 1) / WIDTH);
    return rows;
}

/* (rows, count) to (place(count), together * WIDTH), the missing rows 0. */
static void turn_group(const float *x, int64_t rows, int64_t count, int together, int relu, float *y)
{
    int64_t side = together * WIDTH;
    for (int64_t first = 0; first < count; first += NEURONS) {
        int64_t stop = first + NEURONS < count ? first + NEURONS : count;
        for (int64_t n = 0; n < side; n++)
            for (int64_t i = first; i < stop; i++)
                y[place(i) * side + n] = n < rows ? x[n * count + i] : 0;
        for (int64_t i = first; relu && i < stop; i++)
            for (float *at = y + place(i) * side; at < y + (place(i) + 1) * side; at += WIDTH)
                store(at, larger(fill(0), load(at)));
    }
}

static void turn_group_back(const float *x, int64_t rows, int64_t count, int together, float *y)
{
    int64_t side = together * WIDTH;
    for (int64_t first = 0; first < count; first += NEURONS) {
        int64_t stop = first + NEURONS < count ? first + NEURONS : count;
        for (int64_t n = 0; n < rows; n++)
            for (int64_t i = first; i < stop; i++)
                y[n * count + i] = x[place(i) * side + n];
    }
}

INLINE void stream(const struct path_product *job, const float *x, float *y, const int together)
{
    for (int64_t i = 0; i < job->outputs; i++)
        for (int v = 0; v < together; v++)
            store(y + (place(i) * together + v) * WIDTH, fill(job->bias ? job->bias[i] : 0));
    for (int64_t p = 0; p < job->paths; p++) {
        float weight = job->weight[p];
        const float *from = x + place(job->source[p]) * together * WIDTH;
        float *to = y + place(job->destination[p]) * together * WIDTH;
        for (int v = 0; v < together; v++)
            store(to + v * WIDTH, load(to + v * WIDTH) + weight * load(from + v * WIDTH));
    }
}

/* Every group whose turn it is, one after the other in the same memory. */
static void path_product_task(void *context, int64_t task)
{
    const struct path_tasks *tasks = context;
    const struct path_product *job = tasks->job;
    float *x = tasks->x + task * place(job->inputs) * SIDE, *y = tasks->y + task * place(job->outputs) * SIDE;
    for (int64_t group = task; group < tasks->groups; group += tasks->crew) {
        int together;
        int64_t rows = rows_of(job, group, &together);
        turn_group(job->x + group * SIDE * job->inputs, rows, job->inputs, together, job->relu, x);
        if (together == TOGETHER)
            stream(job, x, y, TOGETHER);
        else
            stream(job, x, y, 1);
        turn_group_back(y, rows, job->outputs, together, job->y + group * SIDE * job->outputs);
    }
}

/* One row in scalars. With relu, x is a copy of the input without what is negative: the talk's comparison for each path
   is as good as thrown dice, and the processor would foresee half of them wrongly. */
static void single_row(const struct path_product *job, const float *x, int weight)
{
    const int32_t *source = job->source, *destination = job->destination;
    if (weight) {
        for (int64_t p = 0; p < job->paths; p++)
            job->d_weight[p] = job->d_y[destination[p]] * x[source[p]];
        return;
    }
    float *y = job->y;
    for (int64_t i = 0; i < job->outputs; i++)
        y[i] = job->bias ? job->bias[i] : 0;
    for (int64_t p = 0; p < job->paths; p++)
        y[destination[p]] += job->weight[p] * x[source[p]];
}

static void turn_task(void *context, int64_t group)
{
    const struct path_tasks *tasks = context;
    const struct path_product *job = tasks->job;
    int together;
    int64_t rows = rows_of(job, group, &together), first = group * SIDE;
    float *x = tasks->x + first * place(job->inputs), *y = tasks->y + first * place(job->outputs);
    turn_group(job->x + first * job->inputs, rows, job->inputs, together, job->relu, x);
    turn_group(job->d_y + first * job->outputs, rows, job->outputs, together, 0, y);
}

INLINE void add_products(const struct path_product *job, int64_t first, int64_t stop, const float *x, const float *d_y,
                         const int together, float *sums)
{
    for (int64_t p = first; p < stop; p++) {
        const float *from = x + place(job->source[p]) * together * WIDTH;
        const float *to = d_y + place(job->destination[p]) * together * WIDTH;
        lanes sum = load(sums + (p - first) * WIDTH);
        for (int v = 0; v < together; v++)
            sum += load(to + v * WIDTH) * load(from + v * WIDTH);
        store(sums + (p - first) * WIDTH, sum);
    }
}

/* (SOME, 2 half) to (SOME, half), the sums of both halves, which it puts behind x. */
INLINE float *fold(float *x, const int half)
{
    const float *restrict from = x;
    float *restrict to = x + SOME * 2 * half;
    for (int p = 0; p < SOME; p++)
        for (int k = 0; k < half; k++)
            to[p * half + k] = from[2 * p * half + k] + from[(2 * p + 1) * half + k];
    return to;
}

/* Paths in blocks of SOME over all groups, and then over the lanes, many paths at once: a `total` for each would take
   longer than all the rest of a small batch. */
static void path_weight_task(void *context, int64_t block)
{
    const struct path_tasks *tasks = context;
    const struct path_product *job = tasks->job;
    int64_t end = (block + 1) * PATHS < job->paths ? (block + 1) * PATHS : job->paths;
    for (int64_t first = block * PATHS; first < end; first += SOME) {
        int64_t stop = first + SOME < end ? first + SOME : end;
        float sums[2 * SOME * WIDTH];
        memset(sums, 0, sizeof sums / 2);
        for (int64_t group = 0; group < tasks->groups; group++) {
            const float *x = tasks->x + group * place(job->inputs) * SIDE;
            const float *d_y = tasks->y + group * place(job->outputs) * SIDE;
            int together;
            rows_of(job, group, &together);
            if (together == TOGETHER)
                add_products(job, first, stop, x, d_y, TOGETHER, sums);
            else
                add_products(job, first, stop, x, d_y, 1, sums);
        }
        float *folded = sums;
        if (WIDTH == 16)
            folded = fold(folded, 8);
        if (WIDTH >= 8)
            folded = fold(folded, 4);
        folded = fold(fold(folded, 2), 1);
        memcpy(job->d_weight + first, folded, (size_t)(stop - first) * sizeof *folded);
    }
}

/* Product or the weights' gradient. Returns 0, 1 where memory ran out, 2 where a path leads outside. */
static int run_paths(const struct path_product *job, int weight)
{
    if (beyond(job->source, job->paths, job->inputs) || beyond(job->destination, job->paths, job->outputs))
        return 2;
    int64_t groups = (job->rows + SIDE - 1) / SIDE, blocks = (job->paths + PATHS - 1) / PATHS;
    int64_t crew = job->threads < groups ? job->threads : groups, held = weight ? groups : crew;
    struct path_tasks tasks = {job, groups, blocks, crew, NULL, NULL};
    tasks.x = malloc((size_t)(held * place(job->inputs) * SIDE + 1) * sizeof *tasks.x);
    tasks.y = malloc((size_t)(held * place(job->outputs) * SIDE + 1) * sizeof *tasks.y);
    int full = !tasks.x || !tasks.y;
    if (!full && job->rows == 1) {
        for (int64_t i = 0; job->relu && i < job->inputs; i++)
            tasks.x[i] = job->x[i] <= 0 ? 0 : job->x[i];
        single_row(job, job->relu ? tasks.x : job->x, weight);
    } else if (!full && weight) {
        prernn_parallel(job->threads, groups, turn_task, &tasks);
        prernn_parallel(job->threads, blocks, path_weight_task, &tasks);
    } else if (!full) {
        prernn_parallel(job->threads, crew, path_product_task, &tasks);
    }
    free(tasks.x);
    free(tasks.y);
    return full;
}
