/* Systematic sampling of rows by importance, as prernn/sparsity/online.py has it in torch, to the last bit: compiled for
   each instruction set, without contraction of products and sums, which would round otherwise. */
#include "kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))
#define PIECE 256 /* activations whose counts are in the first cache */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

struct sampling_tasks {
    const struct sampling *job;
    _Atomic int failed;
};

INLINE double sampled_size(double size, double count, double norm, const struct sampling *job, int values)
{
    double each = norm / (double)job->samples;
    if (values == COUNT)
        return count * each;
    return size > each || size != size ? size : each; /* NaN stays */
}

/* One row from its running sums `place`; `values` is a constant. */
INLINE void sample_row(const struct sampling *job, const float *a, const double *place, float *out, int values)
{
    double norm = place[job->size - 1], divisor = norm > 0 ? norm : 1, samples = (double)job->samples;
    double first = floor(-job->offset), most = samples + first, before = first, drawn[PIECE + 1];
    for (int64_t at = 0; at < job->size; at += PIECE) {
        int64_t count = job->size - at < PIECE ? job->size - at : PIECE;
        drawn[0] = before;
        for (int64_t i = 0; i < count; i++) {
            double whole = floor(place[at + i] / divisor * samples - job->offset);
            drawn[i + 1] = whole > most ? most : whole; /* NaN stays */
        }
        before = drawn[count];
        for (int64_t i = 0; i < count; i++) {
            float x = a[at + i];
            double times = drawn[i + 1] - drawn[i];
            if (values == KEEP) {
                out[at + i] = times == 0 ? 0 : x;
                continue;
            }
            float sign = (float)((x > 0) - (x < 0));
            float size = (float)sampled_size(fabs((double)x), times, norm, job, values);
            out[at + i] = times == 0 ? 0 : sign * size;
        }
    }
}

static void sampling_task(void *context, int64_t row)
{
    struct sampling_tasks *tasks = context;
    const struct sampling *job = tasks->job;
    double *place = malloc((size_t)job->size * sizeof *place), sum = 0;
    if (!place) {
        tasks->failed = 1;
        return;
    }
    const float *a = job->a + row * job->size;
    float *out = job->out + row * job->size;
    for (int64_t i = 0; i < job->size; i++) {
        sum += fabs((double)a[i]);
        place[i] = sum;
    }
    if (job->values == KEEP)
        sample_row(job, a, place, out, KEEP);
    else if (job->values == ESTIMATE)
        sample_row(job, a, place, out, ESTIMATE);
    else
        sample_row(job, a, place, out, COUNT);
    free(place);
}

int JOIN(NAME, _sample)(const struct sampling *job)
{
    struct sampling_tasks tasks = {job, 0};
    if (job->size)
        prernn_parallel(job->threads, job->rows, sampling_task, &tasks);
    return tasks.failed;
}
