/* What the kernels take: one job for a whole sequence, filled in by ops/native/ (keep the two alike). */
#ifndef PRERNN_KERNELS_H
#define PRERNN_KERNELS_H

#include <stdint.h>

/* Gates of those behind LIGRU see no state: they have no weights, and come as diagonals. */
enum cell { VRNN, LSTM, GRU_BEFORE, GRU_AFTER, LINEAR, LIGRU, QRNN, SRU, MINGRU };
enum activation { TANH, RELU };

/* T steps, N rows, G gates, of which P see the state, D units, C columns of the band (1: diagonal), S state tensors.
   Arrays are dense and float32 unless told; d_ stands for the gradient with respect to. */
struct recurrence {
    int64_t steps, rows, size, columns;
    int64_t u_time, u_row, u_gate; /* strides of u in elements; u_gate is 0 where all gates share one input */
    int32_t cell;
    int32_t activation; /* VRNN */
    int32_t update_new; /* GRU: z weighs the candidate (PreRNN, eq. 3), not the old state (torch) */
    int32_t bfloat16;   /* u, out, d_out and d_u are bfloat16 */
    int32_t threads;
    float scale;            /* LINEAR: h_t = scale (u_t + W h_{t-1}) */
    const void *u;          /* (T, N, G or 1, D), strided */
    const float *weight;    /* (P, D, C): [g, i, c] joins neuron i + c - C/2 to i; not read outside the matrix */
    const float *bias;      /* (P, D) or NULL */
    const float *state;     /* (S, N, D) */
    const uint8_t *started; /* (N) or NULL; LINEAR: a row that has not started takes h = u */
    const int64_t *lengths; /* (N) or NULL: steps of each row */
    void *out;              /* (T, N, D) */
    float *last;            /* (S, N, D): state after each row's last step */
    float *kept;            /* (T, N, S, D): states after each step, or NULL */
    /* backward: what is above without out and last, and */
    const void *d_out;    /* (T, N, D) */
    const float *d_last;  /* (S, N, D) */
    void *d_u;            /* (T, N, G or 1, D), dense */
    float *d_weight;      /* (P, D, C), 0 outside the matrix */
    float *d_bias;        /* (P, D) or NULL */
    float *d_state;       /* (S, N, D) */
};

/* Product with a matrix of compressed rows, the same positions for all G gates:
   y[n, g, i] = bias[g, i] + sum over k in row i of weight[g, k] h[n, column[k]]. */
struct rows_product {
    int64_t rows, gates, receivers, senders, entries;
    int32_t threads;
    const int64_t *row_start; /* (receivers + 1) */
    const int32_t *column;    /* (entries) */
    const float *weight;      /* (G, entries) */
    const float *bias;        /* (G, receivers) or NULL */
    const float *h;           /* (N, senders) */
    float *y;                 /* (N, G, receivers) */
    /* backward: what is above without bias and y, and */
    const float *d_y;         /* (N, G, receivers) */
    float *d_h;               /* (N, senders) */
    float *d_weight;          /* (G, entries) */
};

/* Product along paths, in their order:
   y[n, destination[p]] += weight[p] x[n, source[p]], or max(0, x) where `relu` is set, y starting as the bias. */
struct path_product {
    int64_t rows, paths, inputs, outputs;
    int32_t threads, relu;
    const int32_t *source, *destination; /* (paths) */
    const float *weight;                 /* (paths) */
    const float *bias;                   /* (outputs) or NULL */
    const float *x;                      /* (N, inputs) */
    float *y;                            /* (N, outputs) */
    /* gradient of the weights: what is above without weight, bias and y, and */
    const float *d_y; /* (N, outputs) */
    float *d_weight;  /* (paths) */
};

/* Convolution made of paths. Maps of y lie in planes of x, at any distance that a tap's `shift` says:
   y[n, destination[p], h, w] += weight[p, k] x[n, source[p], shift[k] + h step + w], y starting as the bias. */
struct path_maps {
    int64_t rows, paths, inputs, outputs, taps;
    int64_t plane; /* numbers of one of x */
    int64_t height, width, step;
    int32_t threads;
    const int32_t *source, *destination; /* (paths) */
    const int64_t *shift;                /* (taps), all places inside a plane */
    const float *weight;                 /* (paths, taps) */
    const float *bias;                   /* (outputs) or NULL */
    const float *x;                      /* (N, inputs, plane) */
    float *y;                            /* (N, outputs, height, width) */
    /* gradient of the weights: what is above without weight, bias and y, and */
    const float *d_y; /* (N, outputs, height, width) */
    float *d_weight;  /* (paths, taps) */
};

/* Product with weights of few bits, one segment of x for each output:
   y[n, r] = scale[r] * sum over k < count[r] of weight[begin[r] + k] x[n, first[r] + k] + bias[r]. */
struct narrow_product {
    int64_t rows, outputs, inputs, weights;
    int32_t threads;
    int32_t eight;        /* weights are int8, else bfloat16 */
    const int64_t *begin; /* (outputs), where an output's weights begin; or NULL: dense (outputs, inputs) */
    const int32_t *first; /* (outputs), the input that the first of them meets */
    const int32_t *count; /* (outputs) */
    const void *weight;
    const float *scale; /* (outputs) or NULL */
    const float *bias;  /* (outputs) or NULL */
    const float *x;     /* (N, inputs) */
    float *y;           /* (N, outputs) */
    /* with activations in 8 bits, weights int8, up to 65536 inputs: what is above and */
    const int32_t *sums; /* (outputs), of each output's weights */
};

/* `rows_product` with weights of few bits. */
struct narrow_rows {
    int64_t rows, gates, receivers, senders, entries;
    int64_t stride; /* gates whose weights lie side by side; those of the product are the first */
    int32_t threads;
    int32_t eight;            /* weights are int8, else bfloat16 */
    const int64_t *row_start; /* (receivers + 1) */
    const uint16_t *column;   /* (entries) */
    const void *weight;       /* (entries, stride) */
    const float *scale;       /* (G, receivers) or NULL */
    const float *bias;        /* (G, receivers) or NULL */
    const float *h;           /* (N, senders) */
    float *y;                 /* (N, G, receivers) */
};

/* What a drawn activation becomes: see prernn/sparsity/online.py. */
enum values { KEEP, ESTIMATE, COUNT };

/* Systematic samples of each row. */
struct sampling {
    int64_t rows, size, samples;
    int32_t threads, values;
    double offset;  /* in [0, 1) */
    const float *a; /* (N, size) */
    float *out;     /* (N, size) */
};

/* y[n, o] = sum over the i with x[n, i] != 0 of x[n, i] weight[i, o] + bias[o]. */
struct few_product {
    int64_t rows, outputs, inputs;
    int32_t threads;
    int32_t bfloat16;   /* weights are bfloat16, else float32 */
    const void *weight; /* (inputs, outputs) */
    const float *bias;  /* (outputs) or NULL */
    const float *x;     /* (N, inputs) */
    float *y;           /* (N, outputs) */
};

/* Convolution of stride 1 whose outputs are as many as its inputs, products with zeros left out. */
struct few_convolution {
    int64_t rows, outputs, inputs, height, width;
    int32_t threads;
    int32_t side;        /* of the kernel: 1 or 3 */
    const float *weight; /* (outputs / 32, inputs, side, side, 32), rounded up */
    const float *bias;   /* (outputs) or NULL */
    const float *x;      /* (N, inputs, height, width) */
    float *y;            /* (N, height, width, outputs) */
};

#define DECLARE(name)                                              \
    int name##_forward(const struct recurrence *);                 \
    int name##_backward(const struct recurrence *);                \
    int name##_rows_product(const struct rows_product *);          \
    int name##_rows_backward(const struct rows_product *);         \
    int name##_path_product(const struct path_product *);          \
    int name##_path_weight(const struct path_product *);           \
    int name##_path_maps(const struct path_maps *);                \
    int name##_path_maps_weight(const struct path_maps *);         \
    int name##_narrow_product(const struct narrow_product *);      \
    int name##_integer_product(const struct narrow_product *);     \
    int name##_narrow_rows(const struct narrow_rows *);            \
    int name##_sample(const struct sampling *);                    \
    int name##_few_product(const struct few_product *);            \
    int name##_few_convolution(const struct few_convolution *)

DECLARE(baseline);
DECLARE(avx2);
DECLARE(avx512);
int avx512_vnni_integer_product(const struct narrow_product *);

/* Runs task(context, i) for i = 0 .. count - 1 on up to `threads` threads. */
void prernn_parallel(int threads, int64_t count, void (*task)(void *, int64_t), void *context);

#endif
