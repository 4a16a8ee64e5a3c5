/* Band recurrences: neighbors meet at every step, so a group of rows goes through time together and shares the
   weights that a tile of WIDTH units loads. Rows stand in zero-padded buffers: neuron j at C/2 + j, so that the
   product of column c reads from unit + c and nothing wraps. Weights are turned to (G, C, D) first. */

#define GROUP 4          /* rows that share a load of weights */
#define WEIGHT_UNITS 256 /* units of a task of d_weight */
#define STORED_STEPS 8   /* steps of rows up to which weights of wide bands are not worth turning */
#define STORED_COLUMNS (2 * WIDTH + 1)

struct band_tasks {
    const struct recurrence *job;
    int64_t padded, whole;  /* length of a padded row; size rounded up to WIDTH */
    int64_t groups, single; /* groups of GROUP rows, then single rows */
    float *weight;          /* (G, C, D): [g, c, i] joins neuron i + c - C/2 to i; 0 outside the matrix; NULL: the
                               stored ones serve */
    float *h[2];            /* (N, padded): state before and after a step, taking turns */
    float *c, *z, *r;       /* (N, whole): c of LSTM (backward: dc); z and r of GRU_BEFORE */
    float *reset;           /* (N, padded) forward, (T, N, padded) backward: r h of GRU_BEFORE */
    /* backward */
    float *returned; /* (G, C, D): as the sender sees them, [g, c, j] joins j to j + c - C/2 */
    float *d_weight; /* (G, C, D) */
    float *before; /* (T, N, padded): state before each step */
    float *dq;     /* (T, N, G, padded): gradient with respect to the recurrent products */
    float *dh;     /* (N, whole) */
};

/* q[g][n] = sum over c of weight[g, c, unit..] x[n, unit + c] for the gates that `weight` begins with. */
INLINE void band_products(const struct recurrence *job, const float *weight, const float *x, int64_t stride,
                          int64_t unit, int gates, int rows, int count, lanes q[MOST_GATES][GROUP])
{
    for (int g = 0; g < gates; g++)
        for (int n = 0; n < rows; n++)
            q[g][n] = fill(0);
    for (int64_t c = 0; c < job->columns; c++) {
        lanes neighbor[GROUP];
        for (int n = 0; n < rows; n++)
            neighbor[n] = load(x + n * stride + unit + c);
        for (int g = 0; g < gates; g++) {
            lanes w = load_some(weight + (g * job->columns + c) * job->size + unit, count);
            for (int n = 0; n < rows; n++)
                q[g][n] += w * neighbor[n];
        }
    }
}

/* The same from weights as they are stored, (G, D, C), for a few steps that are not worth turning them. */
INLINE void stored_products(const struct recurrence *job, int first, const float *x, int64_t stride, int64_t unit,
                            int gates, int rows, int count, lanes q[MOST_GATES][GROUP])
{
    int64_t D = job->size, C = job->columns, reach = C / 2;
    bits number;
    for (int k = 0; k < WIDTH; k++)
        number[k] = k;
    for (int g = 0; g < gates; g++)
        for (int lane = 0; lane < count; lane++) {
            int64_t i = unit + lane, begin = i < reach ? reach - i : 0, end = D + reach - i < C ? D + reach - i : C;
            const float *weight = job->weight + ((first + g) * D + i) * C;
            for (int n = 0; n < rows; n++) {
                const float *neighbor = x + n * stride + i;
                lanes sum = fill(0);
                int64_t c = begin;
                for (; c + WIDTH <= end; c += WIDTH)
                    sum += load(weight + c) * load(neighbor + c);
                if (c < end) { /* the last WIDTH, without those that have been: there are at least C/2 + 1 > WIDTH */
                    bits fresh = number >= (int)(WIDTH - (end - c));
                    lanes w = load(weight + end - WIDTH);
                    sum += choose(fresh, w * load(neighbor + end - WIDTH), fill(0));
                }
                q[g][n][lane] = total(sum);
            }
        }
}

/* The recurrent products of `gates` gates from `first` on, with their biases. */
INLINE void gate_products(const struct band_tasks *tasks, int first, const float *x, int64_t unit, int gates, int rows,
                          int count, lanes q[MOST_GATES][GROUP])
{
    const struct recurrence *job = tasks->job;
    if (tasks->weight)
        band_products(job, tasks->weight + first * job->columns * job->size, x, tasks->padded, unit, gates, rows, count,
                      q);
    else
        stored_products(job, first, x, tasks->padded, unit, gates, rows, count, q);
    if (job->bias)
        for (int g = 0; g < gates; g++) {
            lanes b = load_some(job->bias + (first + g) * job->size + unit, count);
            for (int n = 0; n < rows; n++)
                q[g][n] += b;
        }
}

INLINE void keep_step(const struct band_tasks *tasks, int cell, int64_t t, int64_t row, int64_t unit, lanes h, lanes c,
                      int count)
{
    const struct recurrence *job = tasks->job;
    int64_t S = states_of(cell), at = t * job->rows + row, reach = job->columns / 2;
    store_some(tasks->h[(t + 1) % 2] + row * tasks->padded + reach + unit, h, count);
    store_any(job->out, at * job->size + unit, h, job->bfloat16, count);
    if (S > 1)
        store_some(tasks->c + row * tasks->whole + unit, c, count);
    if (job->kept) {
        store_some(job->kept + at * S * job->size + unit, h, count);
        if (S > 1)
            store_some(job->kept + (at * S + 1) * job->size + unit, c, count);
    }
}

/* Past its length a row keeps its state and puts out zeros. */
INLINE int ended(const struct band_tasks *tasks, int64_t t, int64_t row, int64_t unit, int count)
{
    const struct recurrence *job = tasks->job;
    if (t < steps_of(job, row))
        return 0;
    int64_t at = row * tasks->padded + job->columns / 2 + unit;
    store_some(tasks->h[(t + 1) % 2] + at, load_some(tasks->h[t % 2] + at, count), count);
    store_any(job->out, (t * job->rows + row) * job->size + unit, fill(0), job->bfloat16, count);
    return 1;
}

/* One tile of one step of all cells but GRU_BEFORE. */
INLINE void band_tile(const struct band_tasks *tasks, int cell, int64_t t, int64_t row, int rows, int64_t unit,
                      int count)
{
    const struct recurrence *job = tasks->job;
    int64_t reach = job->columns / 2;
    int G = gates_of(cell);
    lanes q[MOST_GATES][GROUP];
    const float *h = tasks->h[t % 2] + row * tasks->padded;
    gate_products(tasks, 0, h, unit, G, rows, count, q);
    for (int n = 0; n < rows; n++) {
        if (ended(tasks, t, row + n, unit, count))
            continue;
        lanes u[MOST_GATES], own[MOST_GATES];
        int64_t from = t * job->u_time + (row + n) * job->u_row + unit;
        fetch_gates(job, cell, from + job->u_time); /* what the next step reads */
        load_gates(job, cell, from, count, u);
        for (int g = 0; g < G; g++)
            own[g] = q[g][n];
        lanes now = load_some(h + n * tasks->padded + reach + unit, count);
        lanes c = cell == LSTM ? load_some(tasks->c + (row + n) * tasks->whole + unit, count) : fill(0);
        if (cell == LINEAR && t == 0 && waits(job, row + n))
            now = u[0];
        else
            step_forward(job, cell, u, own, &now, &c);
        keep_step(tasks, cell, t, row + n, unit, now, c, count);
    }
}

/* GRU_BEFORE, first half: r h and z of a tile. `reset` is where r h goes. */
INLINE void before_gates(const struct band_tasks *tasks, const float *h, float *reset, int64_t t, int64_t row, int rows,
                         int64_t unit, int count)
{
    const struct recurrence *job = tasks->job;
    int64_t reach = job->columns / 2;
    lanes q[MOST_GATES][GROUP];
    gate_products(tasks, 0, h, unit, 2, rows, count, q);
    for (int n = 0; n < rows; n++) {
        if (t >= steps_of(job, row + n))
            continue;
        lanes u[MOST_GATES];
        int64_t from = t * job->u_time + (row + n) * job->u_row + unit;
        if (tasks->r) { /* on the way back */
            FETCH(h + (n - job->rows) * tasks->padded + reach + unit);
            FETCH(reset + (n - job->rows) * tasks->padded + reach + unit);
        } else
            fetch_gates(job, GRU_BEFORE, from + job->u_time);
        load_gates(job, GRU_BEFORE, from, count, u);
        lanes r = sigmoid(u[0] + q[0][n]), z = sigmoid(u[1] + q[1][n]);
        int64_t at = n * tasks->padded + reach + unit;
        store_some(reset + at, r * load_some(h + at, count), count);
        store_some(tasks->z + (row + n) * tasks->whole + unit, z, count);
        if (tasks->r)
            store_some(tasks->r + (row + n) * tasks->whole + unit, r, count);
    }
}

/* The candidate n of a tile, once r h of its neighbors is known. */
INLINE void before_candidate(const struct band_tasks *tasks, const float *reset, int64_t t, int64_t row, int rows,
                             int64_t unit, int count, lanes *candidate)
{
    const struct recurrence *job = tasks->job;
    lanes q[MOST_GATES][GROUP];
    gate_products(tasks, 2, reset, unit, 1, rows, count, q);
    for (int n = 0; n < rows; n++) {
        int64_t at = t * job->u_time + (row + n) * job->u_row + 2 * job->u_gate + unit;
        candidate[n] = hyperbolic_tangent(load_any(job->u, at, job->bfloat16, count) + q[0][n]);
    }
}

INLINE void before_tile(const struct band_tasks *tasks, int64_t t, int64_t row, int rows, int64_t unit, int count)
{
    const struct recurrence *job = tasks->job;
    lanes candidate[GROUP];
    before_candidate(tasks, tasks->reset + row * tasks->padded, t, row, rows, unit, count, candidate);
    for (int n = 0; n < rows; n++) {
        if (ended(tasks, t, row + n, unit, count))
            continue;
        lanes h = load_some(tasks->h[t % 2] + (row + n) * tasks->padded + job->columns / 2 + unit, count);
        lanes z = load_some(tasks->z + (row + n) * tasks->whole + unit, count);
        keep_step(tasks, GRU_BEFORE, t, row + n, unit, gru_update(job, h, z, candidate[n]), fill(0), count);
    }
}

/* Calls `body` for each tile of a row: `unit`, and `count` lanes in it, a constant but at the end. */
#define FOR_EACH_TILE(body)                                        \
    do {                                                           \
        int64_t unit = 0;                                          \
        for (; unit + WIDTH <= job->size; unit += WIDTH) {         \
            const int count = WIDTH;                               \
            body;                                                  \
        }                                                          \
        if (unit < job->size) {                                    \
            const int count = (int)(job->size - unit);             \
            body;                                                  \
        }                                                          \
    } while (0)

INLINE void band_forward(const struct band_tasks *tasks, int cell, int64_t row, int rows)
{
    const struct recurrence *job = tasks->job;
    for (int64_t t = 0; t < job->steps; t++)
        if (cell == GRU_BEFORE) {
            const float *h = tasks->h[t % 2] + row * tasks->padded;
            float *reset = tasks->reset + row * tasks->padded;
            FOR_EACH_TILE(before_gates(tasks, h, reset, t, row, rows, unit, count));
            FOR_EACH_TILE(before_tile(tasks, t, row, rows, unit, count));
        } else
            FOR_EACH_TILE(band_tile(tasks, cell, t, row, rows, unit, count));
}

/* Back through a tile of one step of all cells but GRU_BEFORE: d_u, and dq and dh for `band_return`. */
INLINE void band_tile_backward(const struct band_tasks *tasks, int cell, int64_t t, int64_t row, int rows, int64_t unit,
                               int count)
{
    const struct recurrence *job = tasks->job;
    int64_t D = job->size, N = job->rows, P = tasks->padded, reach = job->columns / 2, S = states_of(cell);
    int G = gates_of(cell), Gu = job->u_gate ? G : 1;
    lanes q[MOST_GATES][GROUP];
    const float *h = tasks->before + (t * N + row) * P;
    gate_products(tasks, 0, h, unit, G, rows, count, q);
    for (int n = 0; n < rows; n++) {
        int64_t at = t * N + row + n;
        lanes u[MOST_GATES], own[MOST_GATES], du[MOST_GATES], dq[MOST_GATES];
        if (t >= steps_of(job, row + n)) {
            store_no_gradients(job, cell, at * Gu * D + unit, count);
            continue;
        }
        int64_t from = t * job->u_time + (row + n) * job->u_row + unit;
        fetch_gradients(job, cell, t, row + n, unit);
        FETCH(h + (n - N) * P + reach + unit);
        for (int g = 0; g < G; g++)
            FETCH(tasks->dq + ((at - N) * G + g) * P + reach + unit);
        load_gates(job, cell, from, count, u);
        for (int g = 0; g < G; g++)
            own[g] = q[g][n];
        float *d_state = tasks->dh + (row + n) * tasks->whole + unit, *d_c = tasks->c + (row + n) * tasks->whole + unit;
        lanes dh = load_some(d_state, count) + load_any(job->d_out, at * D + unit, job->bfloat16, count);
        lanes dc = S > 1 ? load_some(d_c, count) : fill(0), c = fill(0), c_next = fill(0);
        if (S > 1) {
            c = load_some(t ? job->kept + ((at - N) * S + 1) * D + unit : job->state + (N + row + n) * D + unit, count);
            c_next = load_some(job->kept + (at * S + 1) * D + unit, count);
        }
        if (cell == LINEAR && t == 0 && waits(job, row + n)) {
            du[0] = dh;
            dq[0] = dh = fill(0);
        } else
            step_backward(job, cell, u, own, load_some(h + n * P + reach + unit, count), c,
                          load_some(job->kept + at * S * D + unit, count), c_next, &dh, &dc, du, dq);
        store_some(d_state, dh, count);
        if (S > 1)
            store_some(d_c, dc, count);
        for (int g = 0; g < G; g++)
            store_some(tasks->dq + (at * G + g) * P + reach + unit, dq[g], count);
        store_gradients(job, cell, at * Gu * D + unit, du, count);
    }
}

/* dh += W^T dq, for the gates [first, last) of a tile. */
INLINE void band_return(const struct band_tasks *tasks, int cell, int first, int last, int64_t t, int64_t row, int rows,
                        int64_t unit, int count, lanes *sum)
{
    const struct recurrence *job = tasks->job;
    int64_t G = gates_of(cell), P = tasks->padded;
    for (int n = 0; n < rows; n++)
        sum[n] = fill(0);
    for (int g = first; g < last; g++) {
        lanes part[MOST_GATES][GROUP];
        const float *dq = tasks->dq + ((t * job->rows + row) * G + g) * P;
        band_products(job, tasks->returned + g * job->columns * job->size, dq, G * P, unit, 1, rows, count, part);
        for (int n = 0; n < rows; n++)
            sum[n] += part[0][n];
    }
}

INLINE void band_return_tile(const struct band_tasks *tasks, int cell, int64_t t, int64_t row, int rows, int64_t unit,
                             int count)
{
    lanes sum[GROUP];
    int gates = cell == GRU_BEFORE ? 2 : gates_of(cell);
    band_return(tasks, cell, 0, gates, t, row, rows, unit, count, sum);
    for (int n = 0; n < rows; n++) {
        float *dh = tasks->dh + (row + n) * tasks->whole + unit;
        store_some(dh, load_some(dh, count) + sum[n], count); /* nothing for a row that has ended: its dq is 0 */
    }
}

/* GRU_BEFORE, back to the products: dq of n and z. */
INLINE void before_update_backward(const struct band_tasks *tasks, int64_t t, int64_t row, int rows, int64_t unit,
                                   int count)
{
    const struct recurrence *job = tasks->job;
    int64_t N = job->rows, P = tasks->padded, reach = job->columns / 2;
    lanes candidate[GROUP];
    before_candidate(tasks, tasks->reset + (t * N + row) * P, t, row, rows, unit, count, candidate);
    for (int n = 0; n < rows; n++) {
        int64_t at = t * N + row + n;
        if (t >= steps_of(job, row + n))
            continue;
        fetch_gradients(job, GRU_BEFORE, t, row + n, unit);
        for (int g = 0; g < 3; g++)
            FETCH(tasks->dq + ((at - N) * 3 + g) * P + reach + unit);
        float *d_state = tasks->dh + (row + n) * tasks->whole + unit;
        lanes dh = load_some(d_state, count) + load_any(job->d_out, at * job->size + unit, job->bfloat16, count);
        lanes h = load_some(tasks->before + at * P + reach + unit, count);
        lanes z = load_some(tasks->z + (row + n) * tasks->whole + unit, count), dz, dn;
        before_backward_update(job, h, z, candidate[n], &dh, &dz, &dn);
        store_some(d_state, dh, count);
        store_some(tasks->dq + (at * 3 + 1) * P + reach + unit, dz, count);
        store_some(tasks->dq + (at * 3 + 2) * P + reach + unit, dn, count);
    }
}

/* ... and from n's product through r h: dq of r, and d_u. */
INLINE void before_reset_backward(const struct band_tasks *tasks, int64_t t, int64_t row, int rows, int64_t unit,
                                  int count)
{
    const struct recurrence *job = tasks->job;
    int64_t N = job->rows, P = tasks->padded, D = job->size, reach = job->columns / 2, Gu = job->u_gate ? 3 : 1;
    lanes drh[GROUP];
    band_return(tasks, GRU_BEFORE, 2, 3, t, row, rows, unit, count, drh);
    for (int n = 0; n < rows; n++) {
        int64_t at = t * N + row + n;
        lanes du[3] = {fill(0), fill(0), fill(0)};
        if (t < steps_of(job, row + n)) {
            float *d_state = tasks->dh + (row + n) * tasks->whole + unit;
            lanes dh = load_some(d_state, count), h = load_some(tasks->before + at * P + reach + unit, count);
            before_backward_reset(h, load_some(tasks->r + (row + n) * tasks->whole + unit, count), drh[n], &dh, &du[0]);
            store_some(d_state, dh, count);
            float *dq = tasks->dq + at * 3 * P + reach + unit;
            store_some(dq, du[0], count);
            du[1] = load_some(dq + P, count);
            du[2] = load_some(dq + 2 * P, count);
        }
        store_gradients(job, GRU_BEFORE, at * Gu * D + unit, du, count);
    }
}

INLINE void band_backward(const struct band_tasks *tasks, int cell, int64_t row, int rows)
{
    const struct recurrence *job = tasks->job;
    for (int64_t t = job->steps - 1; t >= 0; t--) {
        if (cell == GRU_BEFORE) {
            int64_t at = (t * job->rows + row) * tasks->padded;
            const float *h = tasks->before + at;
            float *reset = tasks->reset + at;
            FOR_EACH_TILE(before_gates(tasks, h, reset, t, row, rows, unit, count));
            FOR_EACH_TILE(before_update_backward(tasks, t, row, rows, unit, count));
            FOR_EACH_TILE(before_reset_backward(tasks, t, row, rows, unit, count));
        } else
            FOR_EACH_TILE(band_tile_backward(tasks, cell, t, row, rows, unit, count));
        FOR_EACH_TILE(band_return_tile(tasks, cell, t, row, rows, unit, count));
    }
}

/* d_weight[g, c, i] += dq[g, i] x[i + c - C/2] over the rows [row, end) of all steps' rows and d_bias likewise, for
   `gates` gates from `first` on that share a source x; a tile of units. */
INLINE void band_weight(const struct band_tasks *tasks, int cell, int first, int gates, const float *source,
                        int64_t row, int64_t end, int64_t unit, int count)
{
    enum { COLUMNS = 4 };
    const struct recurrence *job = tasks->job;
    int64_t G = gates_of(cell), P = tasks->padded, D = job->size, C = job->columns;
    const float *dq = tasks->dq + first * P + C / 2 + unit;
    float *d_weight = tasks->d_weight + first * C * D + unit, *d_bias = job->d_bias + first * D + unit;
    for (int64_t c = 0; c < C; c += COLUMNS) {
        int columns = C - c < COLUMNS ? (int)(C - c) : COLUMNS;
        lanes sum[MOST_GATES][COLUMNS], bias[MOST_GATES];
        for (int g = 0; g < gates; g++) {
            bias[g] = fill(0);
            for (int k = 0; k < COLUMNS; k++)
                sum[g][k] = fill(0);
        }
        for (int64_t at = row; at < end; at++) {
            /* past the last column too: the sums there are dropped, and the buffer has room */
            const float *x = source + at * P + unit + c;
            for (int g = 0; g < gates; g++) {
                lanes d = load_some(dq + (at * G + g) * P, count);
                bias[g] += d;
                for (int k = 0; k < COLUMNS; k++)
                    sum[g][k] += d * load(x + k);
            }
        }
        for (int g = 0; g < gates; g++) {
            for (int k = 0; k < columns; k++) {
                float *p = d_weight + (g * C + c + k) * D;
                store_some(p, load_some(p, count) + sum[g][k], count);
            }
            if (job->d_bias && c == 0)
                store_some(d_bias + g * D, load_some(d_bias + g * D, count) + bias[g], count);
        }
    }
}

/* One range of units; steps' rows in blocks that stay in the second-level cache. */
INLINE void band_weight_task(const struct band_tasks *tasks, int64_t task, int cell)
{
    enum { BLOCK = 32 };
    const struct recurrence *job = tasks->job;
    int64_t all = job->steps * job->rows, begin = task * WEIGHT_UNITS;
    int64_t stop = begin + WEIGHT_UNITS < job->size ? begin + WEIGHT_UNITS : job->size;
    for (int64_t row = 0; row < all; row += BLOCK) {
        int64_t end = row + BLOCK < all ? row + BLOCK : all;
        for (int64_t unit = begin; unit < stop; unit += WIDTH) {
            int64_t left = stop - unit;
            int split = cell == GRU_BEFORE ? 2 : gates_of(cell);
            if (left >= WIDTH) {
                band_weight(tasks, cell, 0, split, tasks->before, row, end, unit, WIDTH);
                if (cell == GRU_BEFORE)
                    band_weight(tasks, cell, 2, 1, tasks->reset, row, end, unit, WIDTH);
            } else {
                band_weight(tasks, cell, 0, split, tasks->before, row, end, unit, (int)left);
                if (cell == GRU_BEFORE)
                    band_weight(tasks, cell, 2, 1, tasks->reset, row, end, unit, (int)left);
            }
        }
    }
}

INLINE void band_rows_task(const struct band_tasks *tasks, int64_t task, int cell, int backward)
{
    int64_t row = task < tasks->groups ? task * GROUP : tasks->groups * (GROUP - 1) + task;
    if (task < tasks->groups)
        backward ? band_backward(tasks, cell, row, GROUP) : band_forward(tasks, cell, row, GROUP);
    else
        backward ? band_backward(tasks, cell, row, 1) : band_forward(tasks, cell, row, 1);
}

#define DEFINE_BAND(cell)                                                                                     \
    static void band_forward_##cell(void *context, int64_t task) { band_rows_task(context, task, cell, 0); }  \
    static void band_backward_##cell(void *context, int64_t task) { band_rows_task(context, task, cell, 1); } \
    static void band_weight_##cell(void *context, int64_t task) { band_weight_task(context, task, cell); }
FOR_EACH_WEIGHTED(DEFINE_BAND)

#define ENTRY(cell) [cell] = {band_forward_##cell, band_backward_##cell, band_weight_##cell},
static void (*const band_of[][3])(void *, int64_t) = {FOR_EACH_WEIGHTED(ENTRY)};
#undef ENTRY

static struct band_tasks group(const struct recurrence *job)
{
    struct band_tasks tasks = {.job = job};
    tasks.whole = (job->size + WIDTH - 1) / WIDTH * WIDTH;
    tasks.padded = tasks.whole + job->columns - 1;
    /* few rows on many threads go one by one */
    tasks.groups = job->rows >= GROUP * job->threads ? job->rows / GROUP : 0;
    tasks.single = job->rows - tasks.groups * GROUP;
    return tasks;
}

static float *zeros(int64_t count)
{
    return calloc((size_t)count + 4, sizeof(float)); /* band_weight reads up to 3 past the last row */
}

static void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t rows, int64_t size)
{
    for (int64_t row = 0; row < rows; row++)
        memcpy(to + row * to_stride, from + row * from_stride, sizeof(float) * (size_t)size);
}

/* Column c of a band joins the neurons [first, end) to others inside the matrix. */
static void inside(int64_t D, int64_t C, int64_t c, int64_t *first, int64_t *end)
{
    int64_t shift = c - C / 2;
    *first = shift < 0 ? -shift : 0;
    *end = shift > 0 ? D - shift : D;
}

static void clear_outside(float *weight, int64_t D, int64_t C)
{
    for (int64_t c = 0; c < C; c++) {
        int64_t first, end;
        inside(D, C, c, &first, &end);
        memset(weight + c * D, 0, sizeof(float) * (size_t)first);
        memset(weight + c * D + end, 0, sizeof(float) * (size_t)(D - end));
    }
}

/* Turns the weights of one gate, (D, C) to (C, D), and to what the sender sees where `returned` is asked for. */
static void turn_gate(const float *from, int64_t D, int64_t C, float *weight, float *returned)
{
    enum { BLOCK = 64 };
    clear_outside(weight, D, C);
    if (returned)
        clear_outside(returned, D, C);
    for (int64_t begin = 0; begin < D; begin += BLOCK) /* a block of rows stays in the cache */
        for (int64_t c = 0; c < C; c++) {
            int64_t first, end;
            inside(D, C, c, &first, &end);
            first = first > begin ? first : begin;
            end = end < begin + BLOCK ? end : begin + BLOCK;
            for (int64_t i = first; i < end; i++)
                weight[c * D + i] = from[i * C + c];
            if (returned)
                for (int64_t i = first; i < end; i++)
                    returned[(C - 1 - c) * D + i + c - C / 2] = from[i * C + c];
        }
}

/* d_weight of one gate back to (D, C), 0 outside the matrix. */
static void turn_back(const float *from, int64_t D, int64_t C, float *d_weight)
{
    memset(d_weight, 0, sizeof(float) * (size_t)(D * C));
    for (int64_t c = 0; c < C; c++) {
        int64_t first, end;
        inside(D, C, c, &first, &end);
        for (int64_t i = first; i < end; i++)
            d_weight[i * C + c] = from[c * D + i];
    }
}

/* The weights of all gates, turned; `returned` too where it is there. */
static void turn_weights(struct band_tasks *tasks)
{
    const struct recurrence *job = tasks->job;
    int64_t part = job->size * job->columns;
    for (int g = 0; g < gates_of(job->cell); g++)
        turn_gate(job->weight + g * part, job->size, job->columns, tasks->weight + g * part,
                  tasks->returned ? tasks->returned + g * part : NULL);
}

static int run_band_forward(const struct recurrence *job)
{
    struct band_tasks tasks = group(job);
    int64_t N = job->rows, D = job->size, P = tasks.padded, reach = job->columns / 2;
    int before = job->cell == GRU_BEFORE, lstm = job->cell == LSTM;
    int64_t weights = gates_of(job->cell) * job->columns * D;
    float *memory = zeros(2 * N * P + before * N * (P + tasks.whole) + lstm * N * tasks.whole);
    int stored = job->columns >= STORED_COLUMNS && job->steps * N <= STORED_STEPS;
    tasks.weight = stored ? NULL : malloc(sizeof(float) * (size_t)weights);
    if (!memory || (!stored && !tasks.weight)) {
        free(memory);
        free(tasks.weight);
        return 1;
    }
    tasks.h[0] = memory;
    tasks.h[1] = tasks.h[0] + N * P;
    tasks.reset = tasks.c = tasks.h[1] + N * P;
    tasks.z = tasks.reset + N * P;
    if (!stored)
        turn_weights(&tasks);
    copy_rows(tasks.h[0] + reach, P, job->state, D, N, D);
    if (lstm)
        copy_rows(tasks.c, tasks.whole, job->state + N * D, D, N, D);
    prernn_parallel(job->threads, tasks.groups + tasks.single, band_of[job->cell][0], &tasks);
    copy_rows(job->last, D, tasks.h[job->steps % 2] + reach, P, N, D);
    if (lstm)
        copy_rows(job->last + N * D, D, tasks.c, tasks.whole, N, D);
    free(memory);
    free(tasks.weight);
    return 0;
}

static int run_band_backward(const struct recurrence *job)
{
    struct band_tasks tasks = group(job);
    int64_t T = job->steps, N = job->rows, D = job->size, P = tasks.padded, reach = job->columns / 2;
    int64_t S = states_of(job->cell), G = gates_of(job->cell);
    int before = job->cell == GRU_BEFORE;
    int64_t weights = G * job->columns * D;
    float *memory = zeros(3 * weights + (1 + G + before) * T * N * P + (2 + 2 * before) * N * tasks.whole);
    if (!memory)
        return 1;
    tasks.weight = memory;
    tasks.returned = tasks.weight + weights;
    tasks.d_weight = tasks.returned + weights;
    tasks.before = tasks.d_weight + weights;
    tasks.dq = tasks.before + T * N * P;
    tasks.reset = tasks.dq + T * N * G * P;
    tasks.dh = tasks.reset + before * T * N * P;
    tasks.c = tasks.dh + N * tasks.whole;
    tasks.z = tasks.c + N * tasks.whole;
    tasks.r = tasks.z + N * tasks.whole;
    turn_weights(&tasks);
    copy_rows(tasks.before + reach, P, job->state, D, N, D);
    for (int64_t row = 0; row < N; row++) /* of a row that has ended nothing is kept: its products stay 0 */
        for (int64_t t = 1; t < steps_of(job, row); t++)
            memcpy(tasks.before + (t * N + row) * P + reach, job->kept + ((t - 1) * N + row) * S * D,
                   sizeof(float) * (size_t)D);
    copy_rows(tasks.dh, tasks.whole, job->d_last, D, N, D);
    if (S > 1)
        copy_rows(tasks.c, tasks.whole, job->d_last + N * D, D, N, D);
    prernn_parallel(job->threads, tasks.groups + tasks.single, band_of[job->cell][1], &tasks);
    if (job->d_bias)
        memset(job->d_bias, 0, sizeof(float) * (size_t)(G * D));
    prernn_parallel(job->threads, (D + WEIGHT_UNITS - 1) / WEIGHT_UNITS, band_of[job->cell][2], &tasks);
    for (int64_t g = 0; g < G; g++)
        turn_back(tasks.d_weight + g * job->columns * D, D, job->columns, job->d_weight + g * job->columns * D);
    copy_rows(job->d_state, D, tasks.dh, tasks.whole, N, D);
    if (S > 1)
        copy_rows(job->d_state + N * D, D, tasks.c, tasks.whole, N, D);
    free(memory);
    return 0;
}
