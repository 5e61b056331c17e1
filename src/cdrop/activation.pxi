# Activations of contiguous arrays, and their backward pass. Threads take pieces of a fixed size.

# By name: the kind, and the nanoseconds a number of float32 and of float64 that one thread needs.
_ACTIVATIONS = {
    "relu": (CDROP_RELU, 0.2, 0.4),
    "leaky_relu": (CDROP_LEAKY_RELU, 0.2, 0.4),
    "elu": (CDROP_ELU, 1.0, 3.0),
    "selu": (CDROP_SELU, 1.0, 3.0),
    "gelu": (CDROP_GELU, 2.0, 7.0),
    "gelu_tanh": (CDROP_GELU_TANH, 1.5, 5.0),
    "silu": (CDROP_SILU, 1.5, 4.0),
    "tanh": (CDROP_TANH, 1.5, 4.0),
    "sigmoid": (CDROP_SIGMOID, 1.5, 4.0),
    "softplus": (CDROP_SOFTPLUS, 2.0, 7.0),
}


cdef void activate_part(int kind, int64_t n, double a, const real *x, const real *dy, real *out,
                        int part, int parts) noexcept nogil:
    """f(x), or with dy its gradient, from x."""
    cdef int64_t first = chunk_start(n, part, parts, CHUNK_ELEMENTS)
    cdef size_t m = <size_t> (chunk_start(n, part + 1, parts, CHUNK_ELEMENTS) - first)
    cdef const cdrop_kernels *k = cdrop_active
    if part == 0:
        cdrop_note_team()
    if real is float:
        if dy == NULL:
            k.activate_f32(kind, m, <float> a, x + first, out + first)
        else:
            k.activate_back_f32(kind, m, <float> a, x + first, dy + first, out + first)
    else:
        if dy == NULL:
            k.activate_f64(kind, m, a, x + first, out + first)
        else:
            k.activate_back_f64(kind, m, a, x + first, dy + first, out + first)


cdef void activate_all(int kind, int64_t n, double a, const real *x, const real *dy, real *out,
                       int team) noexcept nogil:
    cdef int part
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        activate_part(kind, n, a, x, dy, out, part, team)


def activate(str name, double a, x, out, dy=None):
    """out = f(x) with parameter a, or with dy its gradient dy f'(.), where x is what f saves.

    All contiguous, of one dtype; out may be x or dy.
    """
    cdef Buffer source = array_of("x", x, REAL)
    cdef int64_t n = source.size()
    cdef Buffer target = array_of("out", out, source.dtype, n, True)
    cdef Buffer back = optional("dy", dy, source.dtype, n)
    cdef int kind, team
    cdef double float32_ns, float64_ns
    cdef const void *gradient = pointer_of(back)
    kind, float32_ns, float64_ns = _ACTIVATIONS[name]
    if n == 0:
        return
    team = cdrop_team_for(n * (float32_ns if source.dtype == F32 else float64_ns))
    if source.dtype == F32:
        with nogil:
            activate_all[float](kind, n, a, <const float *> source.view.buf,
                                <const float *> gradient, <float *> target.view.buf, team)
    else:
        with nogil:
            activate_all[double](kind, n, a, <const double *> source.view.buf,
                                 <const double *> gradient, <double *> target.view.buf, team)


cdef void softmax_part(int64_t rows, int64_t n, const real *x, const real *dy, real *out,
                       int part, int parts) noexcept nogil:
    cdef int64_t first = chunk_start(rows, part, parts, 1)
    cdef size_t m = <size_t> (chunk_start(rows, part + 1, parts, 1) - first)
    cdef const cdrop_kernels *k = cdrop_active
    if part == 0:
        cdrop_note_team()
    if real is float:
        if dy == NULL:
            k.softmax_f32(m, n, x + first * n, out + first * n)
        else:
            k.softmax_back_f32(m, n, x + first * n, dy + first * n, out + first * n)
    else:
        if dy == NULL:
            k.softmax_f64(m, n, x + first * n, out + first * n)
        else:
            k.softmax_back_f64(m, n, x + first * n, dy + first * n, out + first * n)


cdef void softmax_all(int64_t rows, int64_t n, const real *x, const real *dy, real *out,
                      int team) noexcept nogil:
    cdef int part
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        softmax_part(rows, n, x, dy, out, part, team)


def softmax(x, out, dy=None):
    """Along the last axis: out = softmax(x), or with dy its gradient, where x is the softmax.

    All contiguous, of one dtype; out may be x or dy.
    """
    cdef Buffer source = array_of("x", x, REAL)
    cdef int64_t size = source.size(), n
    cdef Buffer target = array_of("out", out, source.dtype, size, True)
    cdef Buffer back = optional("dy", dy, source.dtype, size)
    cdef int team
    cdef const void *gradient = pointer_of(back)
    if source.view.ndim == 0:
        raise ValueError("x must have an axis to run along, got a scalar")
    if size == 0:
        return
    n = source.view.shape[source.view.ndim - 1]
    team = cdrop_team_for(size * (2.0 if source.dtype == F32 else 8.0))
    if source.dtype == F32:
        with nogil:
            softmax_all[float](size // n, n, <const float *> source.view.buf,
                               <const float *> gradient, <float *> target.view.buf, team)
    else:
        with nogil:
            softmax_all[double](size // n, n, <const double *> source.view.buf,
                                <const double *> gradient, <double *> target.view.buf, team)
