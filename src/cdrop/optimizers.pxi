# Steps of the optimisers, max-norm without a step, and norms of gradients.

cdef int update_from_product(Weights weights) except -1:
    cdef cdrop_factor a = weights.x.transposed(), b = weights.dz.transposed()
    cdef int64_t m = weights.x.n_columns, n = weights.dz.n_columns, depth = weights.x.n_rows
    if weights.w.dtype == F32:
        with nogil:
            update_product[float](&a, &b, <float *> weights.w.view.buf, &weights.u, m, n, depth,
                                  weights.max_norm)
    else:
        with nogil:
            update_product[double](&a, &b, <double *> weights.w.view.buf, &weights.u, m, n, depth,
                                   weights.max_norm)
    return 0


cdef class Weights:
    """Contiguous weights, how their vectors lie, and what happens to them: checked once."""

    cdef Buffer w, g, kept_row, kept_column
    cdef list states
    cdef Factor x, dz
    cdef Update u
    cdef int64_t outer, n, inner
    cdef double max_norm

    def __init__(self, w, tuple vectors, double max_norm):
        self.w = array_of("w", w, REAL, -1, True)
        self.outer, self.n, self.inner = vectors
        self.max_norm = max_norm
        self.u.rule = NO_UPDATE
        self.states = []
        self.u.g = self.u.block = self.u.m = self.u.v = self.u.d = NULL
        self.u.lazy = False
        if self.outer * self.n * self.inner != self.w.size():
            raise ValueError(f"{vectors} is not a view of {self.w.size()} weights")

    cdef Buffer like(self, str name, array, bint writable):
        cdef Buffer b = array_of(name, array, self.w.dtype, -1, writable)
        if b.size() != self.w.size():
            raise ValueError(f"{name} must have the shape of w")
        return b

    cdef cdrop_hyperparameters *follow(self, int rule, g, kept_rows, kept_columns, bint lazy=False):
        """The numbers of `rule`, to be filled in, after g has been taken in one of its forms.

        g is like w, or a block with its kept_rows and kept_columns, or a pair (x, dz) that stands
        for x.T @ dz: then the norm runs over the rows of w, if there is one.
        """
        self.u.rule = rule
        memset(&self.u.hyperparameters, 0, sizeof(self.u.hyperparameters))
        if isinstance(g, tuple):
            self.take_product(g[0], g[1])
        else:
            self.take_gradient(g, kept_rows, kept_columns, lazy)
        return &self.u.hyperparameters

    cdef void *optional_state(self, str name, array) except? NULL:
        """The memory of a state like w, or NULL for None."""
        return NULL if array is None else self.state(name, array)

    cdef void *state(self, str name, array) except? NULL:
        cdef Buffer buffer = self.like(name, array, True)
        self.states.append(buffer)
        return buffer.view.buf

    cdef int take_product(self, x, dz) except -1:
        """The gradient x.T @ dz of w (K, N), which is never stored: x (M, K), dz (M, N)."""
        self.w.expect(-1, 2)
        cdef int64_t rows = self.w.view.shape[0], columns = self.w.view.shape[1]
        self.x, self.dz = Factor(x), Factor(dz)
        if self.x.dtype != self.w.dtype or self.dz.dtype != self.w.dtype:
            raise TypeError(f"x and dz must have the dtype of w, {DTYPE_NAMES[self.w.dtype]}, got "
                            f"{DTYPE_NAMES[self.x.dtype]} and {DTYPE_NAMES[self.dz.dtype]}")
        if (self.x.n_columns != rows or self.dz.n_columns != columns
                or self.x.n_rows != self.dz.n_rows):
            raise ValueError(f"x and dz do not give ({rows}, {columns})")
        return 0

    cdef int take_gradient(self, g, kept_rows, kept_columns, bint lazy) except -1:
        """g like w, or a block of kept rows x kept columns (int64 both) of lines of w."""
        cdef int64_t i, columns = self.n if self.inner == 1 else self.inner
        cdef int64_t rows = self.w.size() // max(columns, <int64_t> 1)
        cdef const int64_t *at
        if kept_rows is None:
            self.g = self.like("g", g, False)
            self.u.g = self.g.view.buf
            return 0
        self.kept_row = array_of("kept_rows", kept_rows, I64, rows)
        self.kept_column = index_list("kept_columns", kept_columns, columns)
        self.g = array_of("g", g, self.w.dtype)
        self.u.kept_columns = self.kept_column.size()
        at = <const int64_t *> self.kept_row.view.buf
        for i in range(rows):
            if at[i] >= 0 and (at[i] + 1) * self.u.kept_columns > self.g.size():
                raise IndexError(f"row {at[i]} is outside the block of gradients")
        self.u.block = self.g.view.buf
        self.u.kept_row = at
        self.u.kept_column = <const int64_t *> self.kept_column.view.buf
        self.u.lazy = lazy
        return 0

    cdef int64_t run(self) except -1:
        cdef int64_t clipped = 0
        if self.w.size() == 0:
            return 0
        if self.x is not None:
            return update_from_product(self)
        if self.w.dtype == F32:
            with nogil:
                clipped = update_all[float](<float *> self.w.view.buf, &self.u, self.outer, self.n,
                                            self.inner, self.max_norm)
        else:
            with nogil:
                clipped = update_all[double](<double *> self.w.view.buf, &self.u, self.outer,
                                             self.n, self.inner, self.max_norm)
        return clipped


def max_norm(w, tuple vectors, double max_norm):
    """Project contiguous w, seen as vectors = (outer, n, inner). Returns the vectors written."""
    return Weights(w, vectors, max_norm).run()


def sgd(w, g, velocity, double rate, double momentum, bint nesterov, tuple vectors,
        double max_norm, kept_rows=None, kept_columns=None, bint lazy=False, double decay=0.0):
    """One step; velocity is None without momentum, max_norm 0 without projection."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_hyperparameters *r = weights.follow(CDROP_SGD, g, kept_rows, kept_columns, lazy)
    r.rate, r.momentum, r.nesterov, r.decay = rate, momentum, nesterov, decay
    weights.u.v = weights.optional_state("velocity", velocity)
    return weights.run()


def adam(w, g, mean, square, int64_t step, double rate, double beta_1, double beta_2,
         double epsilon, tuple vectors, double max_norm, kept_rows=None, kept_columns=None,
         double keep=1.0):
    """Step number `step`, from 1, of weights that are multiplied by `keep` first."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_hyperparameters *r = weights.follow(CDROP_ADAM, g, kept_rows, kept_columns)
    r.rate = rate / (1.0 - beta_1 ** step)
    r.beta_1, r.beta_2, r.rest_1, r.rest_2 = beta_1, beta_2, 1.0 - beta_1, 1.0 - beta_2
    r.scale, r.epsilon, r.keep = 1.0 / sqrt(1.0 - beta_2 ** step), epsilon, keep
    weights.u.m, weights.u.v = weights.state("mean", mean), weights.state("square", square)
    return weights.run()


def rmsprop(w, g, square, mean, velocity, double rate, double beta, double momentum,
            double epsilon, tuple vectors, double max_norm, kept_rows=None, kept_columns=None):
    """One step; mean is None where it is not centered, velocity without momentum."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_hyperparameters *r = weights.follow(CDROP_RMSPROP, g, kept_rows, kept_columns)
    r.rate, r.beta_2, r.rest_2, r.momentum, r.epsilon = rate, beta, 1.0 - beta, momentum, epsilon
    weights.u.m = weights.optional_state("mean", mean)
    weights.u.v = weights.state("square", square)
    weights.u.d = weights.optional_state("velocity", velocity)
    return weights.run()


def adagrad(w, g, square, double rate, double epsilon, tuple vectors, double max_norm,
            kept_rows=None, kept_columns=None):
    """One step."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_hyperparameters *r = weights.follow(CDROP_ADAGRAD, g, kept_rows, kept_columns)
    r.rate, r.epsilon = rate, epsilon
    weights.u.v = weights.state("square", square)
    return weights.run()


def adadelta(w, g, square, change, double rate, double rho, double epsilon, tuple vectors,
             double max_norm, kept_rows=None, kept_columns=None):
    """One step."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_hyperparameters *r = weights.follow(CDROP_ADADELTA, g, kept_rows, kept_columns)
    r.rate, r.beta_2, r.rest_2, r.epsilon = rate, rho, 1.0 - rho, epsilon
    weights.u.m, weights.u.v = weights.state("change", change), weights.state("square", square)
    return weights.run()


cdef double squares_of(const real *a, int64_t n) noexcept nogil:
    if real is float:
        return cdrop_active.sum_squares_f32(n, a)
    else:
        return cdrop_active.sum_squares_f64(n, a)


cdef double sum_of_squares(const real *a, int64_t n) except? -1 nogil:
    """In blocks, added up in order: no result depends on the team."""
    cdef int64_t blocks = (n + SQUARES_A_BLOCK - 1) // SQUARES_A_BLOCK, block
    cdef int team = cdrop_team_for(READ_NS * n)
    cdef double total = 0
    cdef double *sums = <double *> cdrop_scratch_take(<size_t> (blocks + 1) * sizeof(double))
    if sums == NULL:
        with gil:
            raise MemoryError("no memory for a sum of squares")
    for block in prange(blocks, num_threads=team, schedule="static", use_threads_if=team > 1):
        if block == 0:
            cdrop_note_team()
        sums[block] = squares_of(a + block * SQUARES_A_BLOCK,
                                 min(<int64_t> SQUARES_A_BLOCK, n - block * SQUARES_A_BLOCK))
    for block in range(blocks):
        total += sums[block]
    cdrop_scratch_give(sums)
    return total


def sum_squares(array):
    """The sum of the squares of a contiguous array of floats, in float64."""
    cdef Buffer a = array_of("array", array, REAL)
    cdef const void *data = a.view.buf
    cdef int64_t size = a.size()
    cdef double total
    if a.dtype == F32:
        with nogil:
            total = sum_of_squares[float](<const float *> data, size)
    else:
        with nogil:
            total = sum_of_squares[double](<const double *> data, size)
    return total
