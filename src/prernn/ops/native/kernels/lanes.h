/* A vector of WIDTH float32 lanes and the functions of one: compiled once for each instruction set.

   GCC's and Clang's vector extensions give the arithmetic; intrinsics stand only where they have no word for it.
   Multiplications and additions contract to fused ones where the machine has them. */
#ifndef PRERNN_LANES_H
#define PRERNN_LANES_H

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * WIDTH)));
typedef int32_t bits __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t ubits __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));

INLINE lanes fill(float x)
{
    return x - (lanes){0};
}

INLINE lanes choose(bits mask, lanes yes, lanes no)
{
    return (lanes)((mask & (bits)yes) | (~mask & (bits)no));
}

/* As x86 has them: the second operand where one is NaN. */
INLINE lanes smaller(lanes a, lanes b)
{
#if WIDTH == 16
    return (lanes)_mm512_min_ps((__m512)a, (__m512)b);
#elif WIDTH == 8
    return (lanes)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (lanes)_mm_min_ps((__m128)a, (__m128)b);
#else
    return choose(a < b, a, b);
#endif
}

INLINE lanes larger(lanes a, lanes b)
{
#if WIDTH == 16
    return (lanes)_mm512_max_ps((__m512)a, (__m512)b);
#elif WIDTH == 8
    return (lanes)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (lanes)_mm_max_ps((__m128)a, (__m128)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE lanes load(const float *p)
{
    lanes x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE void store(float *p, lanes x)
{
    memcpy(p, &x, sizeof x);
}

/* Sum of all lanes, in halves: a chain of WIDTH additions would wait for each of them. */
INLINE float total(lanes x)
{
#if WIDTH == 16
    return _mm512_reduce_add_ps((__m512)x); /* halves as below, without a way through memory */
#else
    float part[WIDTH];
    store(part, x);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int k = 0; k < half; k++)
            part[k] += part[k + half];
    return part[0];
#endif
}

/* Asks for weights that lie bytes ahead of p, read once and in their order: by itself a processor stops at each page. */
#define AHEAD 8192
INLINE void ask_ahead(const void *p, int64_t bytes)
{
    __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)bytes));
}

/* The first `count` lanes, the rest 0. `count` is a constant WIDTH but at the end of a row. */
INLINE lanes load_some(const float *p, int count)
{
    if (count == WIDTH)
        return load(p);
    lanes x = {0};
    memcpy(&x, p, 4 * (size_t)count);
    return x;
}

INLINE void store_some(float *p, lanes x, int count)
{
    if (count == WIDTH)
        store(p, x);
    else
        memcpy(p, &x, 4 * (size_t)count);
}

INLINE lanes from_bfloat16(halves x)
{
#if WIDTH == 16 /* GCC's own way takes more instructions */
    return (lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16);
#elif WIDTH == 8
    return (lanes)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)x), 16);
#else
    return (lanes)(__builtin_convertvector(x, ubits) << 16);
#endif
}

/* Round to nearest even; a NaN stays one. */
INLINE halves to_bfloat16(lanes x)
{
    ubits raw = (ubits)x;
    ubits rounded = raw + 0x7fff + ((raw >> 16) & 1);
    bits nan = x != x;
    rounded = ((ubits)nan & (raw | 0x400000)) | (~(ubits)nan & rounded);
    return __builtin_convertvector(rounded >> 16, halves);
}

/* Element `at` of an array of float32 or bfloat16 and those behind it. */
INLINE lanes load_any(const void *p, int64_t at, int bfloat16, int count)
{
    if (!bfloat16)
        return load_some((const float *)p + at, count);
    halves x = {0};
    memcpy(&x, (const uint16_t *)p + at, 2 * (size_t)count);
    return from_bfloat16(x);
}

INLINE void store_any(void *p, int64_t at, lanes x, int bfloat16, int count)
{
    if (!bfloat16) {
        store_some((float *)p + at, x, count);
        return;
    }
    halves y = to_bfloat16(x);
    memcpy((uint16_t *)p + at, &y, 2 * (size_t)count);
}

/* x = k ln 2 + r with |r| <= ln 2 / 2. Returns e^r - 1 = r (1 + r (c2 + ...)), a least-squares fit that is
   1.4e-8 off relatively, below half a unit of float32's last place. Adding 1.5 * 2^23 rounds to the nearest. */
INLINE lanes reduce(lanes x, bits *k)
{
    const float round = 12582912.0f;
    lanes shifted = x * 1.44269504f + round;
    lanes whole = shifted - round;
    *k = (bits)shifted - (bits)fill(round);
    lanes r = x - whole * 0.693359375f; /* ln 2 in two parts, the first exact in few bits */
    r = r + whole * 2.12194440e-4f;
    lanes p = r * 0.001394648919813335f + 0.00836661085486412f;
    p = p * r + 0.04166628047823906f;
    p = p * r + 0.1666654348373413f;
    p = p * r + 0.5f;
    return r + r * r * p;
}

INLINE lanes power_of_two(bits k) /* -126 <= k <= 127 */
{
    return (lanes)((k + 127) << 23);
}

/* e^x: infinity above 88.7, 0 far below, NaN for NaN. No branches. */
INLINE lanes exponential(lanes x)
{
    bits k;
    lanes e = reduce(larger(fill(-150), smaller(fill(150), x)), &k) + 1.0f;
#if WIDTH == 16
    return (lanes)_mm512_scalef_ps((__m512)e, (__m512)__builtin_convertvector(k, lanes));
#else
    bits half = k >> 1; /* in two steps, for one cannot reach infinity */
    return e * power_of_two(half) * power_of_two(k - half);
#endif
}

/* e^x - 1 for x <= 0, with full relative accuracy near 0. */
INLINE lanes exponential_less_one(lanes x)
{
    bits k;
    lanes p = reduce(larger(fill(-40), x), &k);
    lanes scale = power_of_two(k);
    return scale * p + (scale - 1.0f);
}

INLINE lanes sigmoid(lanes x)
{
    return 1.0f / (1.0f + exponential(-x));
}

#define SIGN ((bits)fill(-0.0f))

/* tanh |x| = -m / (2 + m) with m = e^{-2|x|} - 1; the caller may join the division to another. */
INLINE lanes tanh_part(lanes x)
{
    return exponential_less_one(-2.0f * (lanes)((bits)x & ~SIGN));
}

INLINE lanes with_sign(lanes magnitude, lanes x)
{
    return (lanes)((bits)magnitude ^ ((bits)x & SIGN));
}

INLINE lanes hyperbolic_tangent(lanes x)
{
    lanes m = tanh_part(x);
    return with_sign(-m / (2.0f + m), x);
}

/* sigmoid(a) tanh(b) with one division. */
INLINE lanes sigmoid_tanh(lanes a, lanes b)
{
    lanes m = tanh_part(b);
    return with_sign(-m / ((1.0f + exponential(-a)) * (2.0f + m)), b);
}

#endif
