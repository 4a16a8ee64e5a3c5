/* Convolutions of maps of which few activations are not zero: each of these adds its products to the places around it.
   The weights of one channel to a block of outputs stay in registers for all its activations in a tile of rows, and the
   tile's outputs in the first cache. An output is one sum in an order that the shape of the map gives. */

#if WIDTH == 16
#define FEW_LANES 2 /* of outputs in a block: with 9 places, 18 of 32 registers */
#else
#define FEW_LANES 1
#endif
#define FEW_BLOCK (FEW_LANES * WIDTH)
#define FEW_PACKED 32   /* outputs whose weights lie side by side, a multiple of all blocks */
#define FEW_AHEAD 4     /* channels whose weights are asked for before their turn */
#define FEW_CACHE 24576 /* bytes of a tile's outputs */

struct activation_at {
    int32_t at; /* first place of the outputs, with their margin, that it adds to */
    float value;
};

struct few_maps {
    const struct few_convolution *job;
    const float *x; /* of one picture */
    float *y;
    int64_t wide, rows, tiles;   /* places of a row of outputs with margin; rows of a tile; tiles */
    struct activation_at *found; /* (C, H * W): those of a channel's tile from its first place on */
    int32_t *count;              /* (C, tiles) */
    _Atomic int failed;
};

/* The activations of one channel. */
static void find_task(void *context, int64_t c)
{
    struct few_maps *maps = context;
    const struct few_convolution *job = maps->job;
    for (int64_t tile = 0; tile < maps->tiles; tile++) {
        int64_t first = tile * maps->rows, stop = first + maps->rows < job->height ? first + maps->rows : job->height;
        struct activation_at *found = maps->found + (c * job->height + first) * job->width;
        int32_t count = 0;
        for (int64_t h = first; h < stop; h++) {
            const float *x = maps->x + (c * job->height + h) * job->width;
            for (int64_t w = 0; w < job->width; w++) {
                found[count] = (struct activation_at){(int32_t)(h * maps->wide + w), x[w]};
                count += x[w] != 0;
            }
        }
        maps->count[c * maps->tiles + tile] = count;
    }
}

/* One channel's activations of a tile; `side` is a constant, 1 or 3. */
INLINE void add_activations(const struct few_maps *maps, const struct activation_at *found, int32_t count,
                            const float *weight, float *y, int side)
{
    lanes w[9][FEW_LANES];
#pragma GCC unroll 9
    for (int k = 0; k < side * side; k++)
#pragma GCC unroll 2
        for (int l = 0; l < FEW_LANES; l++)
            w[k][l] = load(weight + k * FEW_PACKED + l * WIDTH);
    for (int32_t i = 0; i < count; i++) {
        lanes value = fill(found[i].value);
        float *at = y + (int64_t)found[i].at * FEW_BLOCK;
#pragma GCC unroll 3
        for (int r = 0; r < side; r++)
#pragma GCC unroll 3
            for (int s = 0; s < side; s++)
#pragma GCC unroll 2
                for (int l = 0; l < FEW_LANES; l++) { /* the kernel is turned: an output looks back at its inputs */
                    float *place = at + (r * maps->wide + s) * FEW_BLOCK + l * WIDTH;
                    store(place, load(place) + value * w[(side - 1 - r) * side + side - 1 - s][l]);
                }
    }
}

INLINE void all_activations(const struct few_maps *maps, int64_t first, float *y, int side)
{
    const struct few_convolution *job = maps->job;
    const float *weight = job->weight + first / FEW_PACKED * job->inputs * side * side * FEW_PACKED + first % FEW_PACKED;
    for (int64_t tile = 0; tile < maps->tiles; tile++)
        for (int64_t c = 0; c < job->inputs; c++) {
            int32_t count = maps->count[c * maps->tiles + tile];
            const struct activation_at *found = maps->found + (c * job->height + tile * maps->rows) * job->width;
            for (int k = 0; k < side * side; k++) /* deep layers wait for their weights */
                for (int l = 0; l < FEW_LANES; l++)
                    __builtin_prefetch(weight + ((c + FEW_AHEAD) * side * side + k) * FEW_PACKED + l * WIDTH);
            if (count)
                add_activations(maps, found, count, weight + c * side * side * FEW_PACKED, y, side);
        }
}

/* One block of outputs. */
static void block_task(void *context, int64_t block)
{
    struct few_maps *maps = context;
    const struct few_convolution *job = maps->job;
    int64_t first = block * FEW_BLOCK, margin = job->side / 2;
    float *y = calloc((size_t)((job->height + 2 * margin) * maps->wide * FEW_BLOCK), sizeof *y);
    if (!y) {
        maps->failed = 1;
        return;
    }
    if (job->side == 3)
        all_activations(maps, first, y, 3);
    else
        all_activations(maps, first, y, 1);
    int64_t outputs = job->outputs - first < FEW_BLOCK ? job->outputs - first : FEW_BLOCK;
    for (int64_t h = 0; h < job->height; h++)
        for (int64_t w = 0; w < job->width; w++) {
            const float *place = y + ((h + margin) * maps->wide + margin + w) * FEW_BLOCK;
            float *out = maps->y + (h * job->width + w) * job->outputs + first;
            for (int64_t o = 0; o < outputs; o++)
                out[o] = place[o] + (job->bias ? job->bias[first + o] : 0);
        }
    free(y);
}

static int run_few_convolution(const struct few_convolution *job)
{
    int64_t places = job->height * job->width, wide = job->width + job->side - 1;
    while (wide * FEW_BLOCK * 4 % 4096 < 1024 || wide * FEW_BLOCK * 4 % 4096 > 3072)
        wide++; /* else loads of one row seem to wait for stores to the row before it */
    int64_t rows = FEW_CACHE / (wide * FEW_BLOCK * 4) - (job->side - 1);
    rows = rows < 1 ? 1 : rows > job->height ? job->height : rows;
    struct few_maps maps = {.job = job, .wide = wide, .rows = rows, .tiles = (job->height + rows - 1) / rows};
    maps.found = malloc((size_t)(job->inputs * places + 1) * sizeof *maps.found);
    maps.count = malloc((size_t)(job->inputs * maps.tiles + 1) * sizeof *maps.count);
    maps.failed = !maps.found || !maps.count;
    for (int64_t n = 0; n < job->rows && !maps.failed; n++) {
        maps.x = job->x + n * job->inputs * places;
        maps.y = job->y + n * job->outputs * places;
        prernn_parallel(job->threads, job->inputs, find_task, &maps);
        prernn_parallel(job->threads, (job->outputs + FEW_BLOCK - 1) / FEW_BLOCK, block_task, &maps);
    }
    free(maps.found);
    free(maps.count);
    return maps.failed;
}
