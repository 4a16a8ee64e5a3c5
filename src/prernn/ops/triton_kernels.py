"""The Triton programs that `prernn.ops.triton` launches: forward, backward, and the gradient of a band's weights.

Names in capitals are compile-time constants. The kernels use none of Triton's compound functions (tl.sum, tl.sigmoid,
...), so that they also run in Triton's interpreter when Triton was imported without it.
"""
# mypy: disable-error-code="assignment, misc"
# one variable holds the tiles of all gates, whose number depends on the cell

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["steps", "rows"])
def forward_kernel(
    u, weight, bias, state, started, lengths, kept, reset, out, last,
    steps, rows, size, u_time, u_row, u_gate,
    KEEP: tl.constexpr, KIND: tl.constexpr, OPTION: tl.constexpr, UPDATE: tl.constexpr, GATES: tl.constexpr,
    PRODUCTS: tl.constexpr, SHARED: tl.constexpr, STATES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Runs one row's neurons (a block of them, or all if they are connected) through all steps."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < size
    length = _length(lengths, row, steps)
    biases = _weights(bias + unit, size, inside, PRODUCTS)
    weights = _weights(weight + unit, size, inside, PRODUCTS) if COLUMNS == 1 else weight
    source = state + row * size  # where neighbors find h_{t-1}
    h = tl.load(source + unit, mask=inside, other=0.0)
    c = h
    if STATES == 2:
        c = tl.load(state + (rows + row) * size + unit, mask=inside, other=0.0)
    for time in range(length):
        x = _gates(u + time * u_time + row * u_row + unit, u_gate, inside, GATES, SHARED)
        if KIND == "gru":
            _, z, n, _, _ = _gru(x, h, source, reset + row * size, weights, biases, unit, inside, size, OPTION, COLUMNS)
            h = h + z * (n - h) if UPDATE == "new" else n + z * (h - n)
        elif KIND == "qrnn":
            z = _tanh(x[0])
            c = _mixed(_sigmoid(x[1]), c, z)
            h = _sigmoid(x[2]) * c
        elif KIND == "sru":
            c = _mixed(_sigmoid(x[1]), c, x[0])
            h = _mixed(_sigmoid(x[2]), _tanh(c), x[3])
        elif KIND == "mingru":
            h = _mixed(_sigmoid(x[0]), x[1], h)
        else:
            product = _recurrent(h, source, weights, biases, unit, inside, size, 0, GATES, COLUMNS)
            if KIND == "lstm":
                i, f, g, o = _lstm(x, product)
                c = f * c + i * g
                h = o * _tanh(c)
            elif KIND == "linear":
                following = (x[0] + product[0]) * (0.5 if OPTION == "mean" else 1.0)
                h = tl.where(_flows(started, row, time), following, x[0])
            elif KIND == "ligru":
                z, n = _ligru(x, product)
                h = _mixed(z, h, n)
            elif OPTION == "relu":
                h = x[0] + product[0]
                h = tl.where(h < 0, 0.0, h)  # not a maximum, which would lose NaN
            else:
                h = _tanh(x[0] + product[0])
        tl.store(out + (time * rows + row) * size + unit, h, mask=inside)
        if KEEP or COLUMNS > 1:
            slot = time if KEEP else time % 2
            source = kept + (slot * rows + row) * STATES * size
            tl.store(source + unit, h, mask=inside)
            if STATES == 2:
                tl.store(source + size + unit, c, mask=inside)
        if COLUMNS > 1:
            tl.debug_barrier()
    for time in range(length, steps):
        tl.store(out + (time * rows + row) * size + unit, tl.full((BLOCK,), 0.0, tl.float32), mask=inside)
    tl.store(last + row * size + unit, h, mask=inside)
    if STATES == 2:
        tl.store(last + (rows + row) * size + unit, c, mask=inside)


@triton.jit(do_not_specialize=["steps", "rows", "rows_each"])
def backward_kernel(
    d_out, d_last, u, weight, bias, state, started, lengths, kept, reset,
    d_recurrent, d_u, d_weight, d_bias, d_state,
    steps, rows, rows_each, size, u_time, u_row, u_gate, d_time, d_row,
    KIND: tl.constexpr, OPTION: tl.constexpr, UPDATE: tl.constexpr, GATES: tl.constexpr,
    PRODUCTS: tl.constexpr, SHARED: tl.constexpr, STATES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Runs the neurons of ``rows_each`` rows, one row after the other, backwards through all steps.

    ``x``: gate inputs, ``d_x``: their gradients, ``d_r``: gradients of the recurrent products R, from which those of
    h_{t-1}, the weights and the biases follow. A band stores ``d_r`` in ``d_recurrent`` and r*h in ``reset``, for
    neighbors and for `band_weight_kernel`.
    """
    chunk = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < size
    biases = _weights(bias + unit, size, inside, PRODUCTS)
    weights = _weights(weight + unit, size, inside, PRODUCTS) if COLUMNS == 1 else weight
    nothing = tl.full((BLOCK,), 0.0, tl.float32)
    bias_sums = _repeat(nothing, GATES)
    weight_sums = _repeat(nothing, GATES)
    # if the state is reset before the product, the last gate reads r*h instead of h
    DIRECT: tl.constexpr = GATES - 1 if KIND == "gru" and OPTION == "before" else GATES
    for row in range(chunk * rows_each, tl.minimum(chunk * rows_each + rows_each, rows)):
        length = _length(lengths, row, steps)
        dh = tl.load(d_last + row * size + unit, mask=inside, other=0.0)
        dc = nothing
        if STATES == 2:
            dc = tl.load(d_last + (rows + row) * size + unit, mask=inside, other=0.0)
        after = tl.load(_before(state, kept, 0, row, length, rows, size, STATES) + unit, mask=inside, other=0.0)
        for back in range(length):
            time = length - 1 - back
            step = time * rows + row
            source = _before(state, kept, 0, row, time, rows, size, STATES)
            h = tl.load(source + unit, mask=inside, other=0.0)
            dh += tl.load(d_out + time * d_time + row * d_row + unit, mask=inside, other=0.0).to(tl.float32)
            x = _gates(u + time * u_time + row * u_row + unit, u_gate, inside, GATES, SHARED)
            own = d_recurrent + step * GATES * size  # where neighbors find d_r
            straight = nothing  # the gradient that reaches h_{t-1} without passing through the weights
            read = h  # the value that the last gate's weights are multiplied with
            if KIND == "vrnn":
                d_x = (tl.where(after <= 0, 0.0, dh) if OPTION == "relu" else dh * (1 - after * after),)
                d_r = d_x
            elif KIND == "linear":
                flows = _flows(started, row, time)
                scaled = dh * (0.5 if OPTION == "mean" else 1.0)
                d_x = (tl.where(flows, scaled, dh),)
                d_r = (tl.where(flows, scaled, 0.0),)
                read = tl.where(flows, h, 0.0)
            elif KIND == "lstm":
                product = _recurrent(h, source, weights, biases, unit, inside, size, 0, GATES, COLUMNS)
                i, f, g, o = _lstm(x, product)
                c = tl.load(_before(state, kept, 1, row, time, rows, size, STATES) + unit, mask=inside, other=0.0)
                bent = _tanh(f * c + i * g)
                dc += dh * o * (1 - bent * bent)
                d_x = (dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * bent * o * (1 - o))
                d_r = d_x
                dc = dc * f
            elif KIND == "ligru":
                product = _recurrent(h, source, weights, biases, unit, inside, size, 0, GATES, COLUMNS)
                z, n = _ligru(x, product)
                d_x = (dh * (h - n) * z * (1 - z), tl.where(n <= 0, 0.0, dh * (1 - z)))
                d_r = d_x
                straight = dh * z
            elif KIND == "qrnn":
                z, f, o = _tanh(x[0]), _sigmoid(x[1]), _sigmoid(x[2])
                c = tl.load(_before(state, kept, 1, row, time, rows, size, STATES) + unit, mask=inside, other=0.0)
                d_o = dh * _mixed(f, c, z) * o * (1 - o)
                dc += dh * o
                d_x = (dc * (1 - f) * (1 - z * z), dc * (c - z) * f * (1 - f), d_o)
                dc = dc * f
            elif KIND == "sru":
                f, r = _sigmoid(x[1]), _sigmoid(x[2])
                c = tl.load(_before(state, kept, 1, row, time, rows, size, STATES) + unit, mask=inside, other=0.0)
                bent = _tanh(_mixed(f, c, x[0]))
                dc += dh * r * (1 - bent * bent)
                d_x = (dc * (1 - f), dc * (c - x[0]) * f * (1 - f), dh * (bent - x[3]) * r * (1 - r), dh * (1 - r))
                dc = dc * f
            elif KIND == "mingru":
                z = _sigmoid(x[0])
                d_x = (dh * (x[1] - h) * z * (1 - z), dh * z)
                straight = dh * (1 - z)
            else:
                own_reset = reset + step * size
                r, z, n, product_n, reset_h = _gru(
                    x, h, source, own_reset, weights, biases, unit, inside, size, OPTION, COLUMNS
                )
                share = z if UPDATE == "new" else 1 - z  # the share of n in h_t
                dz = dh * (n - h) if UPDATE == "new" else dh * (h - n)
                d_n = dh * share * (1 - n * n)
                straight = dh * (1 - share)
                if OPTION == "before":
                    read = reset_h
                    d_r = (nothing, nothing, d_n)
                    _exchange(d_r, own, unit, inside, size, 2, 3, COLUMNS)
                    d_read = _transposed(d_r, own, weights, unit, inside, size, 2, 3, COLUMNS)
                    straight += d_read * r
                    d_x = (d_read * h * r * (1 - r), dz * z * (1 - z), d_n)
                    d_r = d_x
                else:
                    d_x = (d_n * product_n * r * (1 - r), dz * z * (1 - z), d_n)
                    d_r = (d_x[0], d_x[1], d_n * r)
            _store_inputs(d_u + step * (1 if SHARED else GATES) * size, d_x, unit, inside, size, GATES, SHARED)
            dh = straight
            if PRODUCTS > 0:
                _exchange(d_r, own, unit, inside, size, 0, DIRECT, COLUMNS)
                dh += _transposed(d_r, own, weights, unit, inside, size, 0, DIRECT, COLUMNS)
                if KIND == "linear":
                    dh = tl.where(flows, dh, 0.0)
                bias_sums = _accumulate(bias_sums, d_r, 1.0, 1.0, GATES)
                if COLUMNS == 1:
                    weight_sums = _accumulate(weight_sums, d_r, h, read, GATES)
            after = h
        for time in range(length, steps):
            ended = d_u + (time * rows + row) * (1 if SHARED else GATES) * size
            _store_inputs(ended, _repeat(nothing, GATES), unit, inside, size, GATES, SHARED)
        tl.store(d_state + row * size + unit, dh, mask=inside)
        if STATES == 2:
            tl.store(d_state + (rows + row) * size + unit, dc, mask=inside)
    for gate in tl.static_range(PRODUCTS):
        place = (chunk * GATES + gate) * size + unit
        tl.store(d_bias + place, bias_sums[gate], mask=inside)
        if COLUMNS == 1:
            tl.store(d_weight + place, weight_sums[gate], mask=inside)


@triton.jit(do_not_specialize=["steps", "rows", "rows_each"])
def band_weight_kernel(
    d_recurrent, state, started, lengths, kept, reset, d_weight, steps, rows, rows_each, size,
    GATES: tl.constexpr, STATES: tl.constexpr, RESET: tl.constexpr, COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``d_r * h`` summed over the steps of ``rows_each`` rows, for BLOCK neurons, WIDTH columns and all gates."""
    chunk = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(2) * WIDTH
    inside = unit < size
    sums = _repeat(tl.full((BLOCK,), 0.0, tl.float32), WIDTH * GATES)
    for row in range(chunk * rows_each, tl.minimum(chunk * rows_each + rows_each, rows)):
        length = _length(lengths, row, steps)
        for time in range(length):
            step = time * rows + row
            source = _before(state, kept, 0, row, time, rows, size, STATES)
            flows = _flows(started, row, time)
            d_r = _gates(d_recurrent + step * GATES * size + unit, size, inside, GATES, False)
            further = ()
            for column in tl.static_range(WIDTH):
                place = unit + (first + column - COLUMNS // 2)
                valid = inside & (place >= 0) & (place < size)
                h = tl.where(flows, tl.load(source + place, mask=valid, other=0.0), 0.0)
                for gate in tl.static_range(GATES):
                    if RESET and gate == 2:
                        h = tl.load(reset + step * size + place, mask=valid, other=0.0)
                    further += (sums[column * GATES + gate] + d_r[gate] * h,)
            sums = further
    for column in tl.static_range(WIDTH):
        place = unit + (first + column - COLUMNS // 2)
        valid = (place >= 0) & (place < size)
        if first + column < COLUMNS:
            for gate in tl.static_range(GATES):
                entry = ((chunk * GATES + gate) * COLUMNS + first + column) * size + unit
                tl.store(d_weight + entry, tl.where(valid, sums[column * GATES + gate], 0.0), mask=inside)


@triton.jit
def _length(lengths, row, steps):
    """Valid steps of a row."""
    length = tl.cast(steps, tl.int64)
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + row), 0), length)
    return length


@triton.jit
def _before(state, kept, index, row, time, rows, size, STATES: tl.constexpr):
    """Pointer to the row's state tensor ``index`` before step ``time``."""
    pointer = state + (index * rows + row) * size
    if time > 0:
        pointer = kept + (((time - 1) * rows + row) * STATES + index) * size
    return pointer


@triton.jit
def _flows(started, row, time):
    """Whether the step reads the state: all do, except the first step of a row that has not started."""
    flows = time >= 0
    if started is not None:
        flows = (time > 0) | tl.load(started + row)
    return flows


@triton.jit
def _gates(pointer, stride, inside, GATES: tl.constexpr, SHARED: tl.constexpr):
    """Tiles of all gates as float32, ``stride`` apart; the same tile for all if they share it."""
    tile = tl.load(pointer, mask=inside, other=0.0).to(tl.float32)
    tiles = (tile,)
    for gate in tl.static_range(1, GATES):
        if not SHARED:
            tile = tl.load(pointer + gate * stride, mask=inside, other=0.0).to(tl.float32)
        tiles += (tile,)
    return tiles


@triton.jit
def _weights(pointer, size, inside, PRODUCTS: tl.constexpr):
    """Tiles of the gates that see the state; an unused one if none does."""
    tiles = (tl.full(inside.shape, 0.0, tl.float32),)
    if PRODUCTS > 0:
        tiles = _gates(pointer, size, inside, PRODUCTS, False)
    return tiles


@triton.jit
def _store_inputs(pointer, d_x, unit, inside, size, GATES: tl.constexpr, SHARED: tl.constexpr):
    """Stores the gates' gradients, or their sum if the gates share one input."""
    if SHARED:
        total = d_x[0]
        for gate in tl.static_range(1, GATES):
            total += d_x[gate]
        tl.store(pointer + unit, total, mask=inside)
    else:
        for gate in tl.static_range(GATES):
            tl.store(pointer + gate * size + unit, d_x[gate], mask=inside)


@triton.jit
def _exchange(tiles, pointer, unit, inside, size, FIRST: tl.constexpr, LAST: tl.constexpr, COLUMNS: tl.constexpr):
    """Stores a row's tiles for its neurons to read their neighbors'. A row has one program, so a barrier suffices."""
    if COLUMNS > 1:
        for gate in tl.static_range(FIRST, LAST):
            tl.store(pointer + gate * size + unit, tiles[gate], mask=inside)
        tl.debug_barrier()


@triton.jit
def _recurrent(
    h, source, weights, biases, unit, inside, size,
    FIRST: tl.constexpr, LAST: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``W_g h + b_g`` for gates FIRST to LAST-1; neighbors' h is at ``source``."""
    sums = ()
    if COLUMNS == 1:
        for gate in tl.static_range(FIRST, LAST):
            sums += (weights[gate] * h + biases[gate],)
    else:
        sums = biases[FIRST:LAST]
        for column in range(COLUMNS):
            place = unit + (column - COLUMNS // 2)
            valid = inside & (place >= 0) & (place < size)
            neighbor = tl.load(source + place, mask=valid, other=0.0)
            further = ()
            for gate in tl.static_range(FIRST, LAST):
                entry = tl.cast(gate * COLUMNS + column, tl.int64) * size + unit  # a wide band has more than 2**31
                further += (sums[gate - FIRST] + tl.load(weights + entry, mask=valid, other=0.0) * neighbor,)
            sums = further
    return sums


@triton.jit
def _transposed(
    d_r, source, weights, unit, inside, size,
    FIRST: tl.constexpr, LAST: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``sum over gates FIRST to LAST-1 of W_g^T d_g``; neighbors' d_g are at ``source (G, D)``."""
    total = tl.full(unit.shape, 0.0, tl.float32)
    if COLUMNS == 1:
        for gate in tl.static_range(FIRST, LAST):
            total += weights[gate] * d_r[gate]
    else:
        for column in range(COLUMNS):
            place = unit - (column - COLUMNS // 2)  # the neuron that reads this one through the column
            valid = inside & (place >= 0) & (place < size)
            for gate in tl.static_range(FIRST, LAST):
                entry = tl.cast(gate * COLUMNS + column, tl.int64) * size + place
                neighbor = tl.load(source + gate * size + place, mask=valid, other=0.0)
                total += tl.load(weights + entry, mask=valid, other=0.0) * neighbor
    return total


@triton.jit
def _repeat(tile, COUNT: tl.constexpr):
    tiles = (tile,)
    for _ in tl.static_range(1, COUNT):
        tiles += (tile,)
    return tiles


@triton.jit
def _accumulate(sums, d_r, h, read, GATES: tl.constexpr):
    """``sums + d_r * h``; the last gate uses ``read`` instead of h."""
    further = ()
    for gate in tl.static_range(GATES - 1):
        further += (sums[gate] + d_r[gate] * h,)
    further += (sums[GATES - 1] + d_r[GATES - 1] * read,)
    return further


@triton.jit
def _lstm(x, product):
    """Gates i, f, g, o."""
    i, f = _sigmoid(x[0] + product[0]), _sigmoid(x[1] + product[1])
    return i, f, _tanh(x[2] + product[2]), _sigmoid(x[3] + product[3])


@triton.jit
def _mixed(share, one, other):
    """Weighted mean, ``share`` of one and the rest of the other; infinite if one of them is."""
    return share * one + (1 - share) * other


@triton.jit
def _ligru(x, product):
    """Gates z, n."""
    n = x[1] + product[1]
    return _sigmoid(x[0] + product[0]), tl.where(n < 0, 0.0, n)


@triton.jit
def _gru(
    x, h, source, reset, weights, biases, unit, inside, size, OPTION: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Gates r, z, n, the recurrent product in n, and r*h, which goes through ``reset`` if the product reads it."""
    if OPTION == "before":
        product = _recurrent(h, source, weights, biases, unit, inside, size, 0, 2, COLUMNS)
        r, z = _sigmoid(x[0] + product[0]), _sigmoid(x[1] + product[1])
        reset_h = r * h
        _exchange((reset_h,), reset, unit, inside, size, 0, 1, COLUMNS)
        product_n = _recurrent(reset_h, reset, weights, biases, unit, inside, size, 2, 3, COLUMNS)[0]
        n = _tanh(x[2] + product_n)
    else:
        product = _recurrent(h, source, weights, biases, unit, inside, size, 0, 3, COLUMNS)
        r, z = _sigmoid(x[0] + product[0]), _sigmoid(x[1] + product[1])
        reset_h = r * h
        product_n = product[2]
        n = _tanh(x[2] + r * product_n)
    return r, z, n, product_n, reset_h


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """tanh to within a few units in the last place everywhere; NaN for NaN."""
    size = tl.abs(x)
    power = tl.exp(-2 * size)
    large = (1 - power) / (1 + power)
    # near zero this would cancel: use x + x^3 P(x^2), with P fitted for minimal relative error for |x| < 0.6
    square = x * x
    series = 0.020795971 - 0.0058951578 * square
    series = 0.13331924 + square * (-0.05378383 + square * series)
    small = x + x * (square * (-0.33333299 + square * series))
    return tl.where(size < 0.6, small, tl.where(x < 0, -large, large))
