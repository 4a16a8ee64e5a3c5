"""The papers' equations written out, with dense matrices and plain loops, none of the package's code.

They are for one row: u (G, D), w (G, D, D), b (G, D), state of vectors (D,).
"""

import torch

CLOSE = {"rtol": 0, "atol": 1e-12}


def close(actual, expected, **tolerance):
    """Asserts equal shapes and values, also of (nested) tuples of tensors; float64 to 1e-12 unless told."""
    torch.testing.assert_close(actual, expected, **{**CLOSE, **tolerance})


def vrnn_step(u, state, w, b, activation=torch.tanh):
    """PreRNN, eqs. 1 and 5."""
    (h,) = state
    return (activation(u[0] + w[0] @ h + b[0]),)


def lstm_step(u, state, w, b):
    """PreRNN, eqs. 2, 8 and 11; gates in the order i, f, c~, o."""
    h, c = state
    i = torch.sigmoid(u[0] + w[0] @ h + b[0])
    f = torch.sigmoid(u[1] + w[1] @ h + b[1])
    new = torch.tanh(u[2] + w[2] @ h + b[2])
    o = torch.sigmoid(u[3] + w[3] @ h + b[3])
    c = f * c + i * new
    return o * torch.tanh(c), c


def gru_step(u, state, w, b):
    """PreRNN, eqs. 3, 9 and 12; gates in the order r, z, h~."""
    (h,) = state
    r = torch.sigmoid(u[0] + w[0] @ h + b[0])
    z = torch.sigmoid(u[1] + w[1] @ h + b[1])
    new = torch.tanh(u[2] + w[2] @ (r * h) + b[2])
    return ((1 - z) * h + z * new,)


def torch_gru_step(u, state, w, b, reset="after"):
    """torch.nn.GRU as its documentation has it, where z is the share of the old state; either reset."""
    (h,) = state
    r = torch.sigmoid(u[0] + w[0] @ h + b[0])
    z = torch.sigmoid(u[1] + w[1] @ h + b[1])
    recurrent = r * (w[2] @ h + b[2]) if reset == "after" else w[2] @ (r * h) + b[2]
    return ((1 - z) * torch.tanh(u[2] + recurrent) + z * h,)


def ligru_step(u, state, w, b):
    """Ravanelli et al. 2018, eqs. 4 to 6, gates z, n."""
    (h,) = state
    z = torch.sigmoid(u[0] + w[0] @ h + b[0])
    return (z * h + (1 - z) * torch.relu(u[1] + w[1] @ h + b[1]),)


def indrnn_step(u, state, w, b):
    """Li et al. 2018, eq. 2: w is diagonal."""
    (h,) = state
    return (torch.relu(u[0] + w[0] @ h + b[0]),)


def qrnn_step(u, state, w, b):
    """Bradbury et al. 2017, eqs. 1 and 5, gates z, f, o; there is no w and no b."""
    f, o = torch.sigmoid(u[1]), torch.sigmoid(u[2])
    c = f * state[1] + (1 - f) * torch.tanh(u[0])
    return o * c, c


def sru_step(u, state, w, b):
    """Lei and Zhang 2017, eqs. 3 to 7, x, f, r and the highway."""
    f, r = torch.sigmoid(u[1]), torch.sigmoid(u[2])
    c = f * state[1] + (1 - f) * u[0]
    return r * torch.tanh(c) + (1 - r) * u[3], c


def mingru_step(u, state, w, b):
    """Feng et al. 2024, section 3.1, z and h."""
    z = torch.sigmoid(u[0])
    return ((1 - z) * state[0] + z * u[1],)


EQUATIONS = {
    "vrnn": vrnn_step,
    "lstm": lstm_step,
    "gru": gru_step,
    "ligru": ligru_step,
    "indrnn": indrnn_step,
    "qrnn": qrnn_step,
    "sru": sru_step,
    "mingru": mingru_step,
}


def run_equations(step, u, state, w, b):
    """Steps rows one by one: ``u (T, B, G, D)`` and states ``(B, D)`` to outputs ``(T, B, D)`` and last states."""
    columns, last = [], []
    for row in range(u.shape[1]):
        own, outputs = tuple(tensor[row] for tensor in state), []
        for u_t in u[:, row]:
            own = step(u_t, own, w, b)
            outputs.append(own[0])
        columns.append(torch.stack(outputs))
        last.append(own)
    return torch.stack(columns, dim=1), tuple(torch.stack(tensors) for tensors in zip(*last, strict=True))
