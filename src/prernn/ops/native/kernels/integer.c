/* Products of 8-bit weights with activations in 8 bits, summed in integers: prernn/ops/narrow.py has the rule. Compiled for
   each instruction set, and once more for a processor that multiplies and adds bytes (VNNI), without contraction: all of
   them and torch give the same numbers to the last bit. */
#include "kernels.h"
#include "lanes.h"

#include <stdlib.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define ROWS 8     /* of the batch that share what is read of the weights */
#define TILE 4     /* outputs whose vectors of sums are added up together */
#define OUTPUTS 32 /* of a task */

/* STEP numbers of 8 bits: an `activation` has its zero taken off where it is kept wider. */
#if defined(__AVX512VNNI__)
#define STEP 64
typedef uint8_t activation;
typedef __m512i numbers, sums;

INLINE numbers load_weights(const int8_t *p)
{
    return _mm512_loadu_si512(p);
}

INLINE sums add_products(sums sum, numbers w, numbers x)
{
    return _mm512_dpbusd_epi32(sum, x, w);
}

#elif WIDTH == 16
#define STEP 32
typedef int16_t activation;
typedef __m512i numbers, sums;

INLINE numbers load_weights(const int8_t *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

INLINE sums add_products(sums sum, numbers w, numbers x)
{
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
}

#elif WIDTH == 8
#define STEP 16
typedef int16_t activation;
typedef __m256i numbers, sums;

INLINE numbers load_weights(const int8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}

INLINE sums add_products(sums sum, numbers w, numbers x)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
}

#else
#define STEP 8
typedef int16_t activation;
typedef int16_t numbers __attribute__((vector_size(16)));
typedef int32_t sums __attribute__((vector_size(16)));

INLINE numbers load_weights(const int8_t *p)
{
    int8_t part __attribute__((vector_size(8)));
    memcpy(&part, p, sizeof part);
    return __builtin_convertvector(part, numbers);
}

INLINE sums add_products(sums sum, numbers w, numbers x)
{
#ifdef __SSE2__
    return sum + (sums)_mm_madd_epi16((__m128i)w, (__m128i)x);
#else
    for (int i = 0; i < 4; i++)
        sum[i] += w[2 * i] * x[2 * i] + w[2 * i + 1] * x[2 * i + 1];
    return sum;
#endif
}
#endif

INLINE numbers load_some_weights(const int8_t *p, int64_t count)
{
    int8_t part[STEP] = {0};
    memcpy(part, p, (size_t)count);
    return load_weights(part);
}

INLINE numbers load_activations(const activation *p)
{
    numbers x;
    memcpy(&x, p, sizeof x);
    return x;
}

typedef int32_t four __attribute__((vector_size(16)));

/* The sums of four vectors. */
INLINE four totals(sums a, sums b, sums c, sums d)
{
#if WIDTH == 16
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return (four)_mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
#elif WIDTH == 8
    __m256i half = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return (four)_mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
#else
    return (four){a[0] + a[1] + a[2] + a[3], b[0] + b[1] + b[2] + b[3], c[0] + c[1] + c[2] + c[3],
                  d[0] + d[1] + d[2] + d[3]};
#endif
}

/* What the 8 bits q of a row of the batch stand for: x is about scale * (q - zero). */
struct row {
    float scale;
    int32_t zero;
};

struct integer_tasks {
    const struct narrow_product *job;
    const struct row *rows;
    const activation *x; /* (N, stride), STEP more behind them */
    int64_t stride;
};

/* The range of a row with 0 in it; a row with a number that is not finite has the scale NaN. */
INLINE struct row range_of(const float *x, int64_t count, float *zero)
{
    lanes low = {0}, high = {0}, odd = {0};
    for (int64_t i = 0; i < count; i += WIDTH) {
        lanes part = load_some(x + i, count - i < WIDTH ? (int)(count - i) : WIDTH);
        low = smaller(part, low);
        high = larger(part, high);
        odd += part - part;
    }
    float least = 0, most = 0;
    for (int i = 0; i < WIDTH; i++) {
        least = low[i] < least ? low[i] : least;
        most = high[i] > most ? high[i] : most;
    }
    float scale = most / 255 - least / 255 + total(odd);
    if (scale == 0)
        scale = 1;
    const float round = 12582912.0f; /* to the nearest, the even one of two */
    *zero = (-least / scale + round) - round;
    return (struct row){scale, *zero > 0 ? (int32_t)*zero : 0};
}

static struct row quantize(const float *x, int64_t count, activation *out)
{
    const float round = 12582912.0f;
    float zero;
    struct row row = range_of(x, count, &zero);
    int32_t shift = sizeof *out == 1 ? 0 : row.zero;
    for (int64_t i = 0; i < count; i++) {
        float q = ((x[i] / row.scale + round) - round) + zero;
        q = q > 0 ? q : 0; /* and NaN */
        q = q < 255 ? q : 255;
        out[i] = (activation)((int32_t)q - shift);
    }
    return row;
}

/* Output r of `rows` rows from n on, a constant. */
INLINE void add_products_of(const struct integer_tasks *tasks, int64_t r, int64_t n, int rows, sums sum[ROWS])
{
    const struct narrow_product *job = tasks->job;
    const int8_t *w = (const int8_t *)job->weight + (job->begin ? job->begin[r] : r * job->inputs);
    const activation *x = tasks->x + n * tasks->stride + (job->begin ? job->first[r] : 0);
    int64_t count = job->begin ? job->count[r] : job->inputs, k = 0;
    for (; k + STEP <= count; k += STEP) {
        ask_ahead(w + k, AHEAD);
        numbers part = load_weights(w + k);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            sum[i] = add_products(sum[i], part, load_activations(x + i * tasks->stride + k));
    }
    if (k < count) {
        numbers part = load_some_weights(w + k, count - k);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            sum[i] = add_products(sum[i], part, load_activations(x + i * tasks->stride + k));
    }
}

INLINE void write(const struct integer_tasks *tasks, int64_t r, int64_t n, int outputs, four whole)
{
    const struct narrow_product *job = tasks->job;
    struct row row = tasks->rows[n];
    for (int o = 0; o < outputs; o++) {
        int32_t all = sizeof(activation) == 1 ? whole[o] - row.zero * job->sums[r + o] : whole[o];
        float y = (float)all * row.scale;
        y = job->scale ? y * job->scale[r + o] : y;
        job->y[n * job->outputs + r + o] = job->bias ? y + job->bias[r + o] : y;
    }
}

/* Outputs from r on, up to TILE, of `rows` rows from n on, a constant. One output's weights after the other, in the order
   in which they come from memory. */
INLINE void integer_tile(const struct integer_tasks *tasks, int64_t r, int64_t n, int outputs, int rows)
{
    sums sum[TILE][ROWS];
    memset(sum, 0, sizeof sum);
    for (int o = 0; o < outputs; o++) {
        sums own[ROWS];
        memset(own, 0, sizeof own);
        add_products_of(tasks, r + o, n, rows, own);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            sum[o][i] = own[i];
    }
    for (int i = 0; i < rows; i++)
        write(tasks, r, n + i, outputs, totals(sum[0][i], sum[1][i], sum[2][i], sum[3][i]));
}

/* All rows, while the weights are in the nearest cache. */
INLINE void integer_outputs(const struct integer_tasks *tasks, int64_t r, int outputs)
{
    int64_t n = 0, rows = tasks->job->rows;
    for (; n + ROWS <= rows; n += ROWS)
        integer_tile(tasks, r, n, outputs, ROWS);
    for (; n + 4 <= rows; n += 4)
        integer_tile(tasks, r, n, outputs, 4);
    for (; n + 2 <= rows; n += 2)
        integer_tile(tasks, r, n, outputs, 2);
    if (n < rows)
        integer_tile(tasks, r, n, outputs, 1);
}

static void integer_task(void *context, int64_t task)
{
    const struct integer_tasks *tasks = context;
    int64_t r = task * OUTPUTS, end = r + OUTPUTS < tasks->job->outputs ? r + OUTPUTS : tasks->job->outputs;
    for (; r + TILE <= end; r += TILE)
        integer_outputs(tasks, r, TILE);
    if (r < end)
        integer_outputs(tasks, r, (int)(end - r));
}

int JOIN(NAME, _integer_product)(const struct narrow_product *job)
{
    enum { LINE = 64 }; /* of a cache: a vector that lies in two takes twice as long */
    int64_t stride = ((job->inputs + STEP - 1) / STEP | 1) * STEP;
    size_t bytes = sizeof(activation) * (size_t)(job->rows * stride + STEP);
    struct row *rows = malloc(sizeof *rows * (size_t)(job->rows + 1));
    char *memory = calloc(bytes + LINE, 1); /* what lies behind a row meets weights of 0 */
    if (rows && memory) {
        activation *x = (activation *)(memory + (LINE - (uintptr_t)memory % LINE) % LINE);
        struct integer_tasks tasks = {job, rows, x, stride};
        for (int64_t n = 0; n < job->rows; n++)
            rows[n] = quantize(job->x + n * job->inputs, job->inputs, x + n * stride);
        prernn_parallel(job->threads, (job->outputs + OUTPUTS - 1) / OUTPUTS, integer_task, &tasks);
    }
    int failed = !rows || !memory;
    free(rows);
    free(memory);
    return failed;
}
