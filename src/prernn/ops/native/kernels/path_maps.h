/* Convolutions made of paths: each path joins one channel to another by a kernel, whose taps read the same plane at fixed
   distances. Places of a plane stand in lanes, so that a tap is one load and one multiplication for WIDTH of them, and
   the sums of HELD vectors stay in registers while all paths of an output come by. */

#define HELD 8      /* vectors of places */
#define TAPS 9      /* of a kernel, whose gradients are in registers at once */
#define SHARED 16   /* outputs of a task */
#define JOINED 64   /* paths of a task of the weights' gradient */
#define PICTURES (1 << 17) /* numbers of the pictures that are looked at together then: in the second-level cache */

struct map_tasks {
    const struct path_maps *job;
    int64_t places, blocks; /* from the first to the last of an output in a plane; blocks of outputs or paths */
    int64_t *start;         /* (outputs + 1), where the paths of an output begin in `order` */
    int32_t *order;         /* (paths), by destination */
    int64_t vectors, first, rows; /* weights' gradient: of the places; pictures of a turn */
    float *d_y;                   /* (rows, outputs, vectors, WIDTH), 0 beside the map */
};

/* `body` with `number` vectors, a constant. */
#define FOR_VECTORS(number, body)  \
    switch (number) {              \
        FOR_VECTORS_CASE(1, body)  \
        FOR_VECTORS_CASE(2, body)  \
        FOR_VECTORS_CASE(3, body)  \
        FOR_VECTORS_CASE(4, body)  \
        FOR_VECTORS_CASE(5, body)  \
        FOR_VECTORS_CASE(6, body)  \
        FOR_VECTORS_CASE(7, body)  \
        FOR_VECTORS_CASE(8, body)  \
    }
#define FOR_VECTORS_CASE(count, body) \
    case count: {                     \
        enum { vectors = count };     \
        body;                         \
        break;                        \
    }

/* Where the last of some vectors begins: it ends with the places, and says again what the one before it does. */
INLINE int64_t last_of(int64_t places, int64_t first, int vectors)
{
    int64_t last = first + (vectors - 1) * WIDTH;
    return places < WIDTH || last + WIDTH <= places ? last : places - WIDTH;
}

/* One tap's products, at `vectors` vectors of places. */
INLINE void add_tap(const float *at, float weight, int64_t last, const int vectors, const int some, lanes *sum)
{
    for (int v = 0; v < vectors - 1; v++)
        sum[v] += weight * load(at + v * WIDTH);
    sum[vectors - 1] += weight * load_some(at + last, some);
}

/* Sums of one output over its paths, at `vectors` vectors of places from `first` on, into line. */
INLINE void map_sums(const struct map_tasks *tasks, const float *x, int64_t output, int64_t first, const int vectors,
                     const int some, float *line)
{
    const struct path_maps *job = tasks->job;
    const int64_t last = last_of(tasks->places, first, vectors) - first, taps = job->taps, *shift = job->shift;
    lanes even[HELD], odd[HELD]; /* two chains of additions, where there are few vectors */
    for (int v = 0; v < vectors; v++) {
        even[v] = fill(job->bias ? job->bias[output] : 0);
        odd[v] = fill(0);
    }
    for (int64_t j = tasks->start[output]; j < tasks->start[output + 1]; j++) {
        int64_t path = tasks->order[j], k = 0;
        const float *from = x + job->source[path] * job->plane + first, *weight = job->weight + path * taps;
        for (; k + 2 <= taps; k += 2) {
            add_tap(from + shift[k], weight[k], last, vectors, some, even);
            add_tap(from + shift[k + 1], weight[k + 1], last, vectors, some, vectors <= HELD / 2 ? odd : even);
        }
        if (k < taps)
            add_tap(from + shift[k], weight[k], last, vectors, some, even);
    }
    for (int v = 0; v < vectors; v++)
        store_some(line + (v < vectors - 1 ? v * WIDTH : last), even[v] + odd[v], some);
}

/* What stands in line, places from `first` on, to the rows of a map. */
INLINE void write_places(const struct path_maps *job, const float *line, int64_t first, int64_t count, float *y)
{
    for (int64_t i = 0; i < count;) {
        int64_t row = (first + i) / job->step, column = (first + i) % job->step;
        int64_t run = count - i < job->step - column ? count - i : job->step - column;
        int64_t kept = run < job->width - column ? run : job->width - column;
        if (kept > 0)
            memcpy(y + row * job->width + column, line + i, (size_t)kept * sizeof *y);
        i += run;
    }
}

static void path_maps_task(void *context, int64_t task)
{
    const struct map_tasks *tasks = context;
    const struct path_maps *job = tasks->job;
    int64_t row = task / tasks->blocks, begin = task % tasks->blocks * SHARED;
    int64_t end = begin + SHARED < job->outputs ? begin + SHARED : job->outputs, places = tasks->places;
    const float *x = job->x + row * job->inputs * job->plane;
    for (int64_t at = 0; at < places; at += HELD * WIDTH) {
        int64_t first = places - at < WIDTH && places >= WIDTH ? places - WIDTH : at;
        int64_t count = places - first < HELD * WIDTH ? places - first : HELD * WIDTH;
        for (int64_t output = begin; output < end; output++) {
            float line[HELD * WIDTH];
            if (places < WIDTH)
                map_sums(tasks, x, output, first, 1, (int)places, line);
            else
                FOR_VECTORS((count + WIDTH - 1) / WIDTH, map_sums(tasks, x, output, first, vectors, WIDTH, line));
            write_places(job, line, first, count, job->y + (row * job->outputs + output) * job->height * job->width);
        }
    }
}

/* The gradient of one map in vectors, zeros between its rows; the last vector ends with the places, and has zeros for
   those that the one before it has too. */
static void lay_out_task(void *context, int64_t task)
{
    const struct map_tasks *tasks = context;
    const struct path_maps *job = tasks->job;
    const float *d_y = job->d_y + (tasks->first * job->outputs + task) * job->height * job->width;
    float *into = tasks->d_y + task * tasks->vectors * WIDTH;
    int64_t last = last_of(tasks->places, 0, (int)tasks->vectors), whole = (tasks->vectors - 1) * WIDTH;
    memset(into, 0, (size_t)(tasks->vectors * WIDTH) * sizeof *into);
    for (int64_t h = 0; h < job->height; h++)
        for (int64_t w = 0; w < job->width; w++) {
            int64_t i = h * job->step + w;
            into[i < whole ? i : whole + i - last] = d_y[h * job->width + w];
        }
}

/* Gradients of `taps` taps of a path from tap `k` on, over the pictures of a turn. */
INLINE void tap_gradients(const struct map_tasks *tasks, int64_t path, int64_t k, const int taps, const int some)
{
    const struct path_maps *job = tasks->job;
    int64_t last = last_of(tasks->places, 0, (int)tasks->vectors), whole = (tasks->vectors - 1) * WIDTH;
    lanes sum[TAPS];
    for (int t = 0; t < taps; t++)
        sum[t] = fill(0);
    for (int64_t n = 0; n < tasks->rows; n++) {
        const float *x = job->x + ((tasks->first + n) * job->inputs + job->source[path]) * job->plane;
        const float *d_y = tasks->d_y + (n * job->outputs + job->destination[path]) * tasks->vectors * WIDTH;
        for (int64_t i = 0; i < whole; i += WIDTH) {
            lanes back = load(d_y + i);
            for (int t = 0; t < taps; t++)
                sum[t] += back * load(x + job->shift[k + t] + i);
        }
        lanes back = load(d_y + whole);
        for (int t = 0; t < taps; t++)
            sum[t] += back * load_some(x + job->shift[k + t] + last, some);
    }
    for (int t = 0; t < taps; t++)
        job->d_weight[path * job->taps + k + t] += total(sum[t]);
}

static void map_weight_task(void *context, int64_t task)
{
    const struct map_tasks *tasks = context;
    const struct path_maps *job = tasks->job;
    int64_t stop = (task + 1) * JOINED < job->paths ? (task + 1) * JOINED : job->paths;
    int some = tasks->places < WIDTH ? (int)tasks->places : WIDTH;
    for (int64_t path = task * JOINED; path < stop; path++)
        for (int64_t k = 0; k < job->taps;) {
            if (some == WIDTH && job->taps - k >= TAPS) {
                tap_gradients(tasks, path, k, TAPS, WIDTH);
                k += TAPS;
            } else {
                tap_gradients(tasks, path, k++, 1, some);
            }
        }
}

/* Where each output's paths begin, and they themselves, in their order. */
static void sort_paths(struct map_tasks *tasks)
{
    const struct path_maps *job = tasks->job;
    int64_t *next = tasks->start + 1; /* first counts, then where the next path goes */
    memset(tasks->start, 0, (size_t)(job->outputs + 2) * sizeof *tasks->start);
    for (int64_t p = 0; p < job->paths; p++)
        next[job->destination[p] + 1]++;
    for (int64_t o = 0; o < job->outputs; o++)
        next[o + 1] += next[o];
    for (int64_t p = 0; p < job->paths; p++)
        tasks->order[next[job->destination[p]]++] = (int32_t)p;
}

static int run_map_product(struct map_tasks *tasks)
{
    const struct path_maps *job = tasks->job;
    tasks->start = malloc((size_t)(job->outputs + 2) * sizeof *tasks->start);
    tasks->order = malloc((size_t)(job->paths + 1) * sizeof *tasks->order);
    int there = tasks->start && tasks->order;
    if (there) {
        sort_paths(tasks);
        tasks->blocks = (job->outputs + SHARED - 1) / SHARED;
        prernn_parallel(job->threads, job->rows * tasks->blocks, path_maps_task, tasks);
    }
    free(tasks->start);
    free(tasks->order);
    return !there;
}

static int run_map_weight(struct map_tasks *tasks)
{
    const struct path_maps *job = tasks->job;
    tasks->vectors = (tasks->places + WIDTH - 1) / WIDTH;
    int64_t picture = job->inputs * job->plane + job->outputs * tasks->vectors * WIDTH;
    int64_t most = picture < PICTURES ? PICTURES / (picture + 1) : 1;
    most = most < job->rows ? most : job->rows;
    tasks->d_y = malloc((size_t)(most * job->outputs * tasks->vectors * WIDTH + 1) * sizeof *tasks->d_y);
    if (!tasks->d_y)
        return 1;
    memset(job->d_weight, 0, (size_t)(job->paths * job->taps) * sizeof *job->d_weight);
    for (tasks->first = 0; tasks->first < job->rows; tasks->first += most) {
        tasks->rows = job->rows - tasks->first < most ? job->rows - tasks->first : most;
        prernn_parallel(job->threads, tasks->rows * job->outputs, lay_out_task, tasks);
        prernn_parallel(job->threads, (job->paths + JOINED - 1) / JOINED, map_weight_task, tasks);
    }
    free(tasks->d_y);
    return 0;
}

/* Product or the weights' gradient. Returns as run_paths. */
static int run_path_maps(const struct path_maps *job, int weight)
{
    if (beyond(job->source, job->paths, job->inputs) || beyond(job->destination, job->paths, job->outputs))
        return 2;
    struct map_tasks tasks = {.job = job, .places = (job->height - 1) * job->step + job->width};
    return weight ? run_map_weight(&tasks) : run_map_product(&tasks);
}
