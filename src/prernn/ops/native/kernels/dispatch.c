/* The entries of the library: they take the widest instructions that the processor has. */
#include "kernels.h"

#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

struct kernels {
    const char *name;
    int (*forward)(const struct recurrence *);
    int (*backward)(const struct recurrence *);
    int (*rows_product)(const struct rows_product *);
    int (*rows_backward)(const struct rows_product *);
    int (*path_product)(const struct path_product *);
    int (*path_weight)(const struct path_product *);
    int (*path_maps)(const struct path_maps *);
    int (*path_maps_weight)(const struct path_maps *);
    int (*narrow_product)(const struct narrow_product *);
    int (*integer_product)(const struct narrow_product *);
    int (*narrow_rows)(const struct narrow_rows *);
    int (*sample)(const struct sampling *);
    int (*few_product)(const struct few_product *);
    int (*few_convolution)(const struct few_convolution *);
};

/* All of one instruction set, but for products in integers those of `integers`. */
#define KERNELS(name, integers)                                                                          \
    {                                                                                                    \
        #integers, name##_forward, name##_backward, name##_rows_product, name##_rows_backward,           \
            name##_path_product, name##_path_weight, name##_path_maps, name##_path_maps_weight,          \
            name##_narrow_product, integers##_integer_product, name##_narrow_rows, name##_sample,        \
            name##_few_product, name##_few_convolution                                                   \
    }

static const struct kernels available[] = {
#ifdef PRERNN_X86
    KERNELS(avx512, avx512_vnni),
    KERNELS(avx512, avx512),
    KERNELS(avx2, avx2),
#endif
    KERNELS(baseline, baseline),
};

static int runs_here(const char *name)
{
#ifdef PRERNN_X86
    __builtin_cpu_init();
    if (!strcmp(name, "avx512_vnni"))
        return __builtin_cpu_supports("avx512vnni") && runs_here("avx512");
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !strcmp(name, "baseline");
}

static const struct kernels *chosen;

/* Takes the kernels called `name`, or the widest that run here where it is NULL; 0 where they do not. */
EXPORT int prernn_choose(const char *name)
{
    for (size_t i = 0; i < sizeof available / sizeof *available; i++)
        if ((!name || !strcmp(name, available[i].name)) && runs_here(available[i].name)) {
            chosen = &available[i];
            return 1;
        }
    return 0;
}

EXPORT const char *prernn_instructions(void)
{
    return chosen->name;
}

/* 1 where both have the same bytes: weights that have not changed. */
EXPORT int prernn_same(const void *a, const void *b, int64_t bytes)
{
    return !memcmp(a, b, (size_t)bytes);
}

/* Each returns 0, 1 where memory ran out, or 2 where a path leads outside of its layers. */
EXPORT int prernn_forward(const struct recurrence *job)
{
    return chosen->forward(job);
}

EXPORT int prernn_backward(const struct recurrence *job)
{
    return chosen->backward(job);
}

EXPORT int prernn_rows_product(const struct rows_product *job)
{
    return chosen->rows_product(job);
}

EXPORT int prernn_rows_backward(const struct rows_product *job)
{
    return chosen->rows_backward(job);
}

EXPORT int prernn_path_product(const struct path_product *job)
{
    return chosen->path_product(job);
}

EXPORT int prernn_path_weight(const struct path_product *job)
{
    return chosen->path_weight(job);
}

static int leads_outside(const struct narrow_product *job)
{
    for (int64_t r = 0; job->begin && r < job->outputs; r++) {
        int64_t begin = job->begin[r], first = job->first[r], count = job->count[r];
        if (begin < 0 || first < 0 || count < 0 || begin > job->weights - count || first > job->inputs - count)
            return 1;
    }
    return 0;
}

EXPORT int prernn_path_maps(const struct path_maps *job)
{
    return chosen->path_maps(job);
}

EXPORT int prernn_path_maps_weight(const struct path_maps *job)
{
    return chosen->path_maps_weight(job);
}

EXPORT int prernn_narrow_product(const struct narrow_product *job)
{
    return leads_outside(job) ? 2 : chosen->narrow_product(job);
}

EXPORT int prernn_integer_product(const struct narrow_product *job)
{
    return leads_outside(job) ? 2 : chosen->integer_product(job);
}

EXPORT int prernn_narrow_rows(const struct narrow_rows *job)
{
    return chosen->narrow_rows(job);
}

EXPORT int prernn_sample(const struct sampling *job)
{
    return chosen->sample(job);
}

EXPORT int prernn_few_product(const struct few_product *job)
{
    return chosen->few_product(job);
}

EXPORT int prernn_few_convolution(const struct few_convolution *job)
{
    return chosen->few_convolution(job);
}
