/* Gate equations on lanes, as prernn/cells.py has them: u the gate inputs, q = W_hh h_{t-1} + b the recurrent
   products. Gates in torch's order: LSTM i, f, g, o; GRU r, z, n. Others: LIGRU z, n; QRNN z, f, o; SRU x, f, r, s;
   MINGRU z, h. */
#ifndef PRERNN_CELLS_H
#define PRERNN_CELLS_H

#include "kernels.h"
#include "lanes.h"

#define MOST_GATES 4

INLINE int gates_of(int cell)
{
    if (cell == LSTM || cell == SRU)
        return 4;
    if (cell == GRU_BEFORE || cell == GRU_AFTER || cell == QRNN)
        return 3;
    return cell == LIGRU || cell == MINGRU ? 2 : 1;
}

/* Gates that see the state, which have weights. */
INLINE int products_of(int cell)
{
    return cell == QRNN || cell == SRU || cell == MINGRU ? 0 : gates_of(cell);
}

INLINE int states_of(int cell)
{
    return cell == LSTM || cell == QRNN || cell == SRU ? 2 : 1;
}

INLINE lanes gru_update(const struct recurrence *job, lanes h, lanes z, lanes n)
{
    return job->update_new ? h + z * (n - h) : n + z * (h - n);
}

/* A share of the one and the rest of the other; infinite where one of them is. */
INLINE lanes mixed(lanes share, lanes one, lanes other)
{
    return share * one + (1.0f - share) * other;
}

/* The next state of every cell but GRU_BEFORE, whose product for n waits for r. */
INLINE void step_forward(const struct recurrence *job, int cell, const lanes *u, const lanes *q, lanes *h, lanes *c)
{
    if (cell == VRNN) {
        lanes x = u[0] + q[0];
        *h = job->activation == RELU ? larger(fill(0), x) : hyperbolic_tangent(x);
    } else if (cell == LSTM) {
        *c = sigmoid(u[1] + q[1]) * *c + sigmoid_tanh(u[0] + q[0], u[2] + q[2]);
        *h = sigmoid_tanh(u[3] + q[3], *c);
    } else if (cell == GRU_AFTER) {
        lanes r = sigmoid(u[0] + q[0]), z = sigmoid(u[1] + q[1]);
        *h = gru_update(job, *h, z, hyperbolic_tangent(u[2] + r * q[2]));
    } else if (cell == LINEAR)
        *h = job->scale * (u[0] + q[0]);
    else if (cell == LIGRU) {
        lanes n = larger(fill(0), u[1] + q[1]);
        *h = mixed(sigmoid(u[0] + q[0]), *h, n);
    } else if (cell == QRNN) {
        lanes z = hyperbolic_tangent(u[0]);
        *c = mixed(sigmoid(u[1]), *c, z);
        *h = sigmoid(u[2]) * *c;
    } else if (cell == SRU) {
        *c = mixed(sigmoid(u[1]), *c, u[0]);
        *h = mixed(sigmoid(u[2]), hyperbolic_tangent(*c), u[3]);
    } else if (cell == MINGRU)
        *h = mixed(sigmoid(u[0]), u[1], *h);
}

/* Gradients of one step. In: dh, dc with respect to the state after it. Out: du and dq with respect to u and q,
   dh with respect to h_{t-1} but for what flows through q, dc with respect to c_{t-1}.
   h and c are the state before the step, h_next and c_next the state after it. */
INLINE void step_backward(const struct recurrence *job, int cell, const lanes *u, const lanes *q, lanes h, lanes c,
                          lanes h_next, lanes c_next, lanes *dh, lanes *dc, lanes *du, lanes *dq)
{
    if (cell == VRNN) {
        if (job->activation == RELU)
            du[0] = choose(h_next <= 0.0f, fill(0), *dh);
        else
            du[0] = *dh * (1.0f - h_next * h_next);
        dq[0] = du[0];
        *dh = fill(0);
    } else if (cell == LSTM) {
        lanes i = sigmoid(u[0] + q[0]), f = sigmoid(u[1] + q[1]);
        lanes g = hyperbolic_tangent(u[2] + q[2]), o = sigmoid(u[3] + q[3]);
        lanes t = hyperbolic_tangent(c_next);
        lanes d = *dc + *dh * o * (1.0f - t * t);
        du[0] = dq[0] = d * g * i * (1.0f - i);
        du[1] = dq[1] = d * c * f * (1.0f - f);
        du[2] = dq[2] = d * i * (1.0f - g * g);
        du[3] = dq[3] = *dh * t * o * (1.0f - o);
        *dc = d * f;
        *dh = fill(0);
    } else if (cell == GRU_AFTER) {
        lanes r = sigmoid(u[0] + q[0]), z = sigmoid(u[1] + q[1]);
        lanes n = hyperbolic_tangent(u[2] + r * q[2]);
        lanes dz = *dh * (job->update_new ? n - h : h - n);
        lanes dn = *dh * (job->update_new ? z : 1.0f - z) * (1.0f - n * n);
        du[0] = dq[0] = dn * q[2] * r * (1.0f - r);
        du[1] = dq[1] = dz * z * (1.0f - z);
        du[2] = dn;
        dq[2] = dn * r;
        *dh = *dh * (job->update_new ? 1.0f - z : z);
    } else if (cell == LINEAR) {
        du[0] = dq[0] = job->scale * *dh;
        *dh = fill(0);
    } else if (cell == LIGRU) {
        lanes z = sigmoid(u[0] + q[0]), n = larger(fill(0), u[1] + q[1]);
        du[0] = dq[0] = *dh * (h - n) * z * (1.0f - z);
        du[1] = dq[1] = choose(n <= 0.0f, fill(0), *dh * (1.0f - z));
        *dh = *dh * z;
    } else if (cell == QRNN) {
        lanes z = hyperbolic_tangent(u[0]), f = sigmoid(u[1]), o = sigmoid(u[2]);
        lanes d = *dc + *dh * o;
        du[0] = d * (1.0f - f) * (1.0f - z * z);
        du[1] = d * (c - z) * f * (1.0f - f);
        du[2] = *dh * c_next * o * (1.0f - o);
        *dc = d * f;
        *dh = fill(0);
    } else if (cell == SRU) {
        lanes f = sigmoid(u[1]), r = sigmoid(u[2]), t = hyperbolic_tangent(c_next);
        lanes d = *dc + *dh * r * (1.0f - t * t);
        du[0] = d * (1.0f - f);
        du[1] = d * (c - u[0]) * f * (1.0f - f);
        du[2] = *dh * (t - u[3]) * r * (1.0f - r);
        du[3] = *dh * (1.0f - r);
        *dc = d * f;
        *dh = fill(0);
    } else if (cell == MINGRU) {
        lanes z = sigmoid(u[0]);
        du[0] = *dh * (u[1] - h) * z * (1.0f - z);
        du[1] = *dh * z;
        *dh = *dh * (1.0f - z);
    }
}

/* GRU_BEFORE in two halves: after r and z are known and the product q[2] with r h, the candidate n. */
INLINE void before_backward_update(const struct recurrence *job, lanes h, lanes z, lanes n, lanes *dh, lanes *dz,
                                   lanes *dn)
{
    *dz = *dh * (job->update_new ? n - h : h - n) * z * (1.0f - z);
    *dn = *dh * (job->update_new ? z : 1.0f - z) * (1.0f - n * n);
    *dh = *dh * (job->update_new ? 1.0f - z : z);
}

/* ... and back through r h: drh is the gradient with respect to it. */
INLINE void before_backward_reset(lanes h, lanes r, lanes drh, lanes *dh, lanes *dr)
{
    *dr = drh * h * r * (1.0f - r);
    *dh = *dh + drh * r;
}

#endif
