/* Diagonal recurrences: every unit on its own, so a tile of units runs through all of time with its state and
   weights in the first-level cache, and memory is read in runs of a tile, the next one fetched ahead. Tasks are
   tiles of units times chunks of rows. */

#define FORWARD_TILE 512 /* units: weights, biases and states of ROWS rows fill about 24 kB */
#define BACKWARD_TILE 256
#define ROWS 2

struct diagonal_tasks {
    const struct recurrence *job;
    int64_t tile, tiles, chunks;
    float *partial; /* backward: (chunks, 2, P, D): d_weight and d_bias */
};

INLINE int64_t steps_of(const struct recurrence *job, int64_t row)
{
    return job->lengths ? job->lengths[row] : job->steps;
}

INLINE int waits(const struct recurrence *job, int64_t row)
{
    return job->started && !job->started[row];
}

/* The recurrent products of a diagonal; r h takes the place of h in the last one of GRU_BEFORE. */
INLINE void products(int cell, const lanes *w, const lanes *b, int stride, lanes h, lanes *q)
{
    int count = cell == GRU_BEFORE ? 2 : products_of(cell);
    for (int g = 0; g < count; g++)
        q[g] = w[g * stride] * h + b[g * stride];
}

INLINE void load_gates(const struct recurrence *job, int cell, int64_t at, int count, lanes *u)
{
    for (int g = 0; g < gates_of(cell); g++)
        u[g] = g && !job->u_gate ? u[0] : load_any(job->u, at + g * job->u_gate, job->bfloat16, count);
}

/* d_u of one vector: a gradient for each gate, or their sum where they share one input. */
INLINE void store_gradients(const struct recurrence *job, int cell, int64_t at, lanes *du, int count)
{
    int G = gates_of(cell), Gu = job->u_gate ? G : 1;
    if (Gu == 1)
        for (int g = 1; g < G; g++)
            du[0] += du[g];
    for (int g = 0; g < Gu; g++)
        store_any(job->d_u, at + g * job->size, du[g], job->bfloat16, count);
}

/* ... of a row that has ended. */
INLINE void store_no_gradients(const struct recurrence *job, int cell, int64_t at, int count)
{
    for (int g = 0; g < (job->u_gate ? gates_of(cell) : 1); g++)
        store_any(job->d_u, at + g * job->size, fill(0), job->bfloat16, count);
}

/* What a run of one row reads next: the row after it, or the first row one step on. */
INLINE int64_t ahead(const struct recurrence *job, int64_t row, int64_t first, int64_t end)
{
    return row + 1 < end ? job->u_row : job->u_time - (row - first) * job->u_row;
}

/* Into the second-level cache: lines of many runs at equal distances would drive each other out of the first. */
#define FETCH(place) __builtin_prefetch(place, 0, 2)

INLINE void fetch_gates(const struct recurrence *job, int cell, int64_t at)
{
    const char *u = job->u;
    for (int g = 0; g < (job->u_gate ? gates_of(cell) : 1); g++)
        FETCH(u + (at + g * job->u_gate) * (job->bfloat16 ? 2 : 4));
}

/* One step of one vector of units. */
INLINE void diagonal_step(const struct recurrence *job, int cell, int64_t t, int64_t row, int64_t unit, int64_t next,
                          const lanes *w, const lanes *b, int stride, lanes *h, lanes *c, int count)
{
    int64_t D = job->size, S = states_of(cell), at = t * job->rows + row;
    int64_t from = t * job->u_time + row * job->u_row + unit;
    lanes u[MOST_GATES], q[MOST_GATES];
    fetch_gates(job, cell, from + next);
    load_gates(job, cell, from, count, u);
    products(cell, w, b, stride, *h, q);
    if (cell == GRU_BEFORE) {
        lanes r = sigmoid(u[0] + q[0]), z = sigmoid(u[1] + q[1]);
        lanes n = hyperbolic_tangent(u[2] + (w[2 * stride] * (r * *h) + b[2 * stride]));
        *h = gru_update(job, *h, z, n);
    } else if (cell == LINEAR && t == 0 && waits(job, row))
        *h = u[0];
    else
        step_forward(job, cell, u, q, h, c);
    store_any(job->out, at * D + unit, *h, job->bfloat16, count);
    if (job->kept) {
        store_some(job->kept + at * S * D + unit, *h, count);
        if (S > 1)
            store_some(job->kept + (at * S + 1) * D + unit, *c, count);
    }
}

/* `body` for each vector of a tile: `v` its number, `count` its lanes, a constant but at the end of a row. */
#define FOR_EACH_VECTOR(units, body)             \
    do {                                         \
        int v = 0;                               \
        for (; (v + 1) * WIDTH <= (units); v++) { \
            const int count = WIDTH;             \
            body;                                \
        }                                        \
        if (v * WIDTH < (units)) {               \
            const int count = (units) - v * WIDTH; \
            body;                                \
        }                                        \
    } while (0)

/* Rows [first, end), at most ROWS, of the `units` units from `unit` on. */
INLINE void diagonal_forward(const struct recurrence *job, int64_t unit, int units, int64_t first, int64_t end,
                             const lanes *w, const lanes *b, int cell)
{
    enum { VECTORS = FORWARD_TILE / WIDTH };
    int64_t D = job->size, N = job->rows, S = states_of(cell);
    lanes h[ROWS][VECTORS], c[ROWS][VECTORS];
    for (int64_t row = first; row < end; row++)
        FOR_EACH_VECTOR(units, {
            h[row - first][v] = load_some(job->state + row * D + unit + v * WIDTH, count);
            c[row - first][v] = S > 1 ? load_some(job->state + (N + row) * D + unit + v * WIDTH, count) : fill(0);
        });
    for (int64_t t = 0; t < job->steps; t++)
        for (int64_t row = first; row < end; row++) {
            int64_t next = ahead(job, row, first, end);
            lanes *own_h = h[row - first], *own_c = c[row - first];
            if (t < steps_of(job, row))
                FOR_EACH_VECTOR(units, diagonal_step(job, cell, t, row, unit + v * WIDTH, next, w + v, b + v, VECTORS,
                                                     own_h + v, own_c + v, count));
            else
                FOR_EACH_VECTOR(units, store_any(job->out, (t * N + row) * D + unit + v * WIDTH, fill(0), job->bfloat16,
                                                 count));
        }
    for (int64_t row = first; row < end; row++)
        FOR_EACH_VECTOR(units, {
            store_some(job->last + row * D + unit + v * WIDTH, h[row - first][v], count);
            if (S > 1)
                store_some(job->last + (N + row) * D + unit + v * WIDTH, c[row - first][v], count);
        });
}

/* What the step before t reads and writes, the last one of the way back. */
INLINE void fetch_gradients(const struct recurrence *job, int cell, int64_t t, int64_t row, int64_t unit)
{
    if (!t)
        return;
    int64_t D = job->size, S = states_of(cell), Gu = job->u_gate ? gates_of(cell) : 1;
    int64_t at = (t - 1) * job->rows + row, bytes = job->bfloat16 ? 2 : 4;
    const float *before = t > 1 ? job->kept + (at - job->rows) * S * D : job->state;
    fetch_gates(job, cell, (t - 1) * job->u_time + row * job->u_row + unit);
    FETCH((const char *)job->d_out + (at * D + unit) * bytes);
    for (int s = 0; s < S; s++)
        FETCH(before + s * D + unit);
    for (int g = 0; g < Gu; g++)
        FETCH((const char *)job->d_u + ((at * Gu + g) * D + unit) * bytes);
}

/* Back through one step of one vector of units. w, b, dw and db are `stride` apart for each gate. */
INLINE void diagonal_step_backward(const struct recurrence *job, int cell, int64_t t, int64_t row, int64_t unit,
                                   const lanes *w, const lanes *b, lanes *dw, lanes *db, int stride,
                                   lanes *dh, lanes *dc, int count)
{
    int64_t D = job->size, N = job->rows, S = states_of(cell), G = products_of(cell);
    int64_t Gu = job->u_gate ? gates_of(cell) : 1;
    int64_t at = t * N + row, from = t * job->u_time + row * job->u_row + unit;
    const float *before = t ? job->kept + (at - N) * S * D + unit : job->state + row * D + unit;
    const float *now = job->kept + at * S * D + unit;
    lanes h = load_some(before, count), c = S > 1 ? load_some(before + (t ? D : N * D), count) : fill(0);
    lanes u[MOST_GATES], q[MOST_GATES], du[MOST_GATES], dq[MOST_GATES], source[MOST_GATES];
    fetch_gradients(job, cell, t, row, unit);
    load_gates(job, cell, from, count, u);
    products(cell, w, b, stride, h, q);
    *dh += load_any(job->d_out, at * D + unit, job->bfloat16, count);
    for (int g = 0; g < G; g++)
        source[g] = h;
    if (cell == GRU_BEFORE) {
        lanes r = sigmoid(u[0] + q[0]), z = sigmoid(u[1] + q[1]);
        source[2] = r * h;
        lanes n = hyperbolic_tangent(u[2] + (w[2 * stride] * source[2] + b[2 * stride]));
        before_backward_update(job, h, z, n, dh, &dq[1], &dq[2]);
        before_backward_reset(h, r, w[2 * stride] * dq[2], dh, &dq[0]);
        for (int g = 0; g < 3; g++)
            du[g] = dq[g];
        *dh += w[0] * dq[0] + w[stride] * dq[1];
    } else if (cell == LINEAR && t == 0 && waits(job, row)) {
        du[0] = *dh;
        dq[0] = *dh = fill(0);
    } else {
        lanes c_next = S > 1 ? load_some(now + D, count) : fill(0);
        step_backward(job, cell, u, q, h, c, load_some(now, count), c_next, dh, dc, du, dq);
        for (int g = 0; g < G; g++)
            *dh += w[g * stride] * dq[g];
    }
    for (int g = 0; g < G; g++) {
        dw[g * stride] += dq[g] * source[g];
        db[g * stride] += dq[g];
    }
    store_gradients(job, cell, at * Gu * D + unit, du, count);
}

/* As forward; adds to the tile's shares of d_weight and d_bias. */
INLINE void diagonal_backward(const struct recurrence *job, int64_t unit, int units, int64_t row, const lanes *w,
                              const lanes *b, lanes *dw, lanes *db, int cell)
{
    enum { VECTORS = BACKWARD_TILE / WIDTH };
    int64_t D = job->size, N = job->rows, S = states_of(cell), steps = steps_of(job, row);
    int64_t Gu = job->u_gate ? gates_of(cell) : 1;
    lanes dh[VECTORS], dc[VECTORS];
    FOR_EACH_VECTOR(units, {
        dh[v] = load_some(job->d_last + row * D + unit + v * WIDTH, count);
        dc[v] = S > 1 ? load_some(job->d_last + (N + row) * D + unit + v * WIDTH, count) : fill(0);
    });
    for (int64_t t = job->steps - 1; t >= steps; t--)
        FOR_EACH_VECTOR(units, store_no_gradients(job, cell, (t * N + row) * Gu * D + unit + v * WIDTH, count));
    for (int64_t t = steps - 1; t >= 0; t--)
        FOR_EACH_VECTOR(units,
                        diagonal_step_backward(job, cell, t, row, unit + v * WIDTH, w + v, b + v,
                                               dw + v, db + v, VECTORS, dh + v, dc + v, count));
    FOR_EACH_VECTOR(units, {
        store_some(job->d_state + row * D + unit + v * WIDTH, dh[v], count);
        if (S > 1)
            store_some(job->d_state + (N + row) * D + unit + v * WIDTH, dc[v], count);
    });
}

/* Weights and biases of a tile, gates `vectors` apart. */
INLINE void load_weights(const struct recurrence *job, int cell, int64_t unit, int units, int vectors, lanes *w,
                         lanes *b)
{
    for (int g = 0; g < products_of(cell); g++)
        FOR_EACH_VECTOR(units, {
            int64_t at = g * job->size + unit + v * WIDTH;
            w[g * vectors + v] = load_some(job->weight + at, count);
            b[g * vectors + v] = job->bias ? load_some(job->bias + at, count) : fill(0);
        });
}

struct part {
    int64_t unit, first, end, chunk;
    int units;
};

static struct part part_of(const struct diagonal_tasks *tasks, int64_t task)
{
    const struct recurrence *job = tasks->job;
    int64_t chunk = task / tasks->tiles, unit = task % tasks->tiles * tasks->tile;
    int64_t first = job->rows * chunk / tasks->chunks, end = job->rows * (chunk + 1) / tasks->chunks;
    int units = (int)(job->size - unit < tasks->tile ? job->size - unit : tasks->tile);
    return (struct part){unit, first, end, chunk, units};
}

INLINE void diagonal_forward_task(void *context, int64_t task, int cell)
{
    enum { VECTORS = FORWARD_TILE / WIDTH };
    const struct diagonal_tasks *tasks = context;
    const struct recurrence *job = tasks->job;
    struct part part = part_of(tasks, task);
    lanes w[MOST_GATES * VECTORS], b[MOST_GATES * VECTORS];
    load_weights(job, cell, part.unit, part.units, VECTORS, w, b);
    for (int64_t row = part.first; row < part.end; row += ROWS)
        diagonal_forward(job, part.unit, part.units, row, row + ROWS < part.end ? row + ROWS : part.end, w, b, cell);
}

INLINE void diagonal_backward_task(void *context, int64_t task, int cell)
{
    enum { VECTORS = BACKWARD_TILE / WIDTH };
    const struct diagonal_tasks *tasks = context;
    const struct recurrence *job = tasks->job;
    struct part part = part_of(tasks, task);
    lanes w[MOST_GATES * VECTORS], b[MOST_GATES * VECTORS], dw[MOST_GATES * VECTORS], db[MOST_GATES * VECTORS];
    load_weights(job, cell, part.unit, part.units, VECTORS, w, b);
    memset(dw, 0, sizeof dw);
    memset(db, 0, sizeof db);
    for (int64_t row = part.first; row < part.end; row++)
        diagonal_backward(job, part.unit, part.units, row, w, b, dw, db, cell);
    int64_t G = products_of(cell);
    float *d_weight = tasks->partial + 2 * part.chunk * G * job->size + part.unit, *d_bias = d_weight + G * job->size;
    for (int g = 0; g < G; g++)
        FOR_EACH_VECTOR(part.units, {
            store_some(d_weight + g * job->size + v * WIDTH, dw[g * VECTORS + v], count);
            store_some(d_bias + g * job->size + v * WIDTH, db[g * VECTORS + v], count);
        });
}

/* One function for each cell: its branches are settled when it is compiled. */
#define FOR_EACH_WEIGHTED(X) X(VRNN) X(LSTM) X(GRU_BEFORE) X(GRU_AFTER) X(LINEAR) X(LIGRU)
#define FOR_EACH_CELL(X) FOR_EACH_WEIGHTED(X) X(QRNN) X(SRU) X(MINGRU)
#define DEFINE_DIAGONAL(cell)                                                                                \
    static void diagonal_forward_##cell(void *context, int64_t task) { diagonal_forward_task(context, task, cell); } \
    static void diagonal_backward_##cell(void *context, int64_t task) { diagonal_backward_task(context, task, cell); }
FOR_EACH_CELL(DEFINE_DIAGONAL)

#define ENTRY(cell) [cell] = diagonal_forward_##cell,
static void (*const diagonal_forward_of[])(void *, int64_t) = {FOR_EACH_CELL(ENTRY)};
#undef ENTRY
#define ENTRY(cell) [cell] = diagonal_backward_##cell,
static void (*const diagonal_backward_of[])(void *, int64_t) = {FOR_EACH_CELL(ENTRY)};
#undef ENTRY

/* Rows are cut only where tiles alone would leave threads idle. */
static struct diagonal_tasks cut(const struct recurrence *job, int64_t tile)
{
    struct diagonal_tasks tasks = {.job = job, .tile = tile, .tiles = (job->size + tile - 1) / tile, .chunks = 1};
    if (tasks.tiles < 4 * job->threads && job->threads > 1 && job->rows)
        tasks.chunks = job->rows < 4 * job->threads ? job->rows : 4 * job->threads;
    return tasks;
}

static int run_diagonal_forward(const struct recurrence *job)
{
    struct diagonal_tasks tasks = cut(job, FORWARD_TILE);
    prernn_parallel(job->threads, tasks.tiles * tasks.chunks, diagonal_forward_of[job->cell], &tasks);
    return 0;
}

static int run_diagonal_backward(const struct recurrence *job)
{
    struct diagonal_tasks tasks = cut(job, BACKWARD_TILE);
    int64_t part = products_of(job->cell) * job->size;
    tasks.partial = malloc(2 * sizeof(float) * (size_t)(part * tasks.chunks) + 1);
    if (!tasks.partial)
        return 1;
    prernn_parallel(job->threads, tasks.tiles * tasks.chunks, diagonal_backward_of[job->cell], &tasks);
    for (int64_t i = 0; i < part; i++) {
        float weight = 0, bias = 0;
        for (int64_t chunk = 0; chunk < tasks.chunks; chunk++) {
            weight += tasks.partial[2 * chunk * part + i];
            bias += tasks.partial[(2 * chunk + 1) * part + i];
        }
        job->d_weight[i] = weight;
        if (job->d_bias)
            job->d_bias[i] = bias;
    }
    free(tasks.partial);
    return 0;
}
