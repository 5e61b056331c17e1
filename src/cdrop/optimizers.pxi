# Steps of the optimisers, max-norm without a step, and norms of gradients.

cdef int update_from_product(Weights weights) except -1:
    cdef cdrop_factor a = weights.x.transposed(), b = weights.dz.transposed()
    cdef int64_t m = weights.x.n_columns, n = weights.dz.n_columns, depth = weights.x.n_rows
    if weights.w.view.itemsize == 4:
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

    cdef Buffer w, g, live_row, live_column
    cdef list states
    cdef Factor x, dz
    cdef Update u
    cdef int64_t outer, n, inner
    cdef double max_norm

    def __init__(self, w, tuple vectors, double max_norm):
        self.w = Buffer(w, True)
        self.outer, self.n, self.inner = vectors
        self.max_norm = max_norm
        self.u.rule = NO_UPDATE
        self.states = []
        self.u.g = self.u.live = self.u.m = self.u.v = self.u.d = NULL
        self.u.lazy = False
        if self.w.view.itemsize not in (4, 8):
            raise ValueError("weights are float32 or float64")
        if self.outer * self.n * self.inner != self.w.size():
            raise ValueError(f"{vectors} is not a view of {self.w.size()} weights")
        self.w.expect("w", self.w.view.itemsize)

    cdef Buffer like(self, str name, array, bint writable):
        cdef Buffer b = Buffer(array, writable)
        if b.size() != self.w.size():
            raise ValueError(f"{name} must have the shape of w")
        b.expect(name, self.w.view.itemsize)
        return b

    cdef cdrop_recipe *follow(self, int rule, g, live_rows, live_columns, bint lazy=False):
        """The numbers of `rule`, to be filled in, after g has been taken in one of its forms.

        g is like w, or a block with its live_rows and live_columns, or a pair (x, dz) that stands
        for x.T @ dz: then the norm runs over the rows of w, if there is one.
        """
        self.u.rule = rule
        memset(&self.u.recipe, 0, sizeof(self.u.recipe))
        if isinstance(g, tuple):
            self.take_product(g[0], g[1])
        else:
            self.take_gradient(g, live_rows, live_columns, lazy)
        return &self.u.recipe

    cdef void *state(self, str name, array) except? NULL:
        """The memory of a state like w, or NULL for None."""
        cdef Buffer buffer
        if array is None:
            return NULL
        buffer = self.like(name, array, True)
        self.states.append(buffer)
        return buffer.view.buf

    cdef int take_product(self, x, dz) except -1:
        """The gradient x.T @ dz of w (K, N), which is never stored: x (M, K), dz (M, N)."""
        cdef int64_t rows = self.w.view.shape[0], columns = self.w.view.shape[1]
        self.x, self.dz = Factor(x), Factor(dz)
        if self.x.itemsize != self.w.view.itemsize or self.dz.itemsize != self.x.itemsize:
            raise ValueError("x and dz must have the dtype of w")
        if (self.x.n_columns != rows or self.dz.n_columns != columns
                or self.x.n_rows != self.dz.n_rows):
            raise ValueError(f"x and dz do not give ({rows}, {columns})")
        return 0

    cdef int take_gradient(self, g, live_rows, live_columns, bint lazy) except -1:
        """g like w, or a block of live rows x live columns (int64 both) of lines of w."""
        cdef int64_t i, columns = self.n if self.inner == 1 else self.inner
        cdef int64_t rows = self.w.size() // columns
        cdef const int64_t *at
        if live_rows is None:
            self.g = self.like("g", g, False)
            self.u.g = self.g.view.buf
            return 0
        self.live_row = Buffer(live_rows)
        self.live_row.expect("live_rows", 8, rows)
        self.live_column = index_list(live_columns, columns)
        self.g = Buffer(g)
        self.u.live_columns = self.live_column.size()
        self.g.expect("g", self.w.view.itemsize)
        at = <const int64_t *> self.live_row.view.buf
        for i in range(rows):
            if at[i] >= 0 and (at[i] + 1) * self.u.live_columns > self.g.size():
                raise IndexError(f"row {at[i]} is outside the block of live gradients")
        self.u.live = self.g.view.buf
        self.u.live_row = at
        self.u.live_column = <const int64_t *> self.live_column.view.buf
        self.u.lazy = lazy
        return 0

    cdef int64_t run(self) except -1:
        cdef int64_t clipped = 0
        if self.w.size() == 0:
            return 0
        if self.x is not None:
            return update_from_product(self)
        if self.w.view.itemsize == 4:
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
        double max_norm, live_rows=None, live_columns=None, bint lazy=False, double decay=0.0):
    """One step; velocity is None without momentum, max_norm 0 without projection."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_recipe *r = weights.follow(CDROP_SGD, g, live_rows, live_columns, lazy)
    r.rate, r.momentum, r.nesterov, r.decay = rate, momentum, nesterov, decay
    weights.u.v = weights.state("velocity", velocity)
    return weights.run()


def adam(w, g, mean, square, int64_t step, double rate, double beta_1, double beta_2,
         double epsilon, tuple vectors, double max_norm, live_rows=None, live_columns=None,
         double keep=1.0):
    """Step number `step`, from 1, of weights that are multiplied by `keep` first."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_recipe *r = weights.follow(CDROP_ADAM, g, live_rows, live_columns)
    r.rate = rate / (1.0 - beta_1 ** step)
    r.beta_1, r.beta_2, r.rest_1, r.rest_2 = beta_1, beta_2, 1.0 - beta_1, 1.0 - beta_2
    r.scale, r.epsilon, r.keep = 1.0 / sqrt(1.0 - beta_2 ** step), epsilon, keep
    weights.u.m, weights.u.v = weights.state("mean", mean), weights.state("square", square)
    return weights.run()


def rmsprop(w, g, square, mean, velocity, double rate, double beta, double momentum,
            double epsilon, tuple vectors, double max_norm, live_rows=None, live_columns=None):
    """One step; mean is None where it is not centered, velocity without momentum."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_recipe *r = weights.follow(CDROP_RMSPROP, g, live_rows, live_columns)
    r.rate, r.beta_2, r.rest_2, r.momentum, r.epsilon = rate, beta, 1.0 - beta, momentum, epsilon
    weights.u.m, weights.u.v = weights.state("mean", mean), weights.state("square", square)
    weights.u.d = weights.state("velocity", velocity)
    return weights.run()


def adagrad(w, g, square, double rate, double epsilon, tuple vectors, double max_norm,
            live_rows=None, live_columns=None):
    """One step."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_recipe *r = weights.follow(CDROP_ADAGRAD, g, live_rows, live_columns)
    r.rate, r.epsilon = rate, epsilon
    weights.u.v = weights.state("square", square)
    return weights.run()


def adadelta(w, g, square, change, double rate, double rho, double epsilon, tuple vectors,
             double max_norm, live_rows=None, live_columns=None):
    """One step."""
    cdef Weights weights = Weights(w, vectors, max_norm)
    cdef cdrop_recipe *r = weights.follow(CDROP_ADADELTA, g, live_rows, live_columns)
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
    cdef Buffer a = Buffer(array)
    cdef const void *data = a.view.buf
    cdef int64_t size = a.size()
    cdef double total
    a.expect("array", 8 if a.view.itemsize == 8 else 4)
    if a.view.itemsize == 4:
        with nogil:
            total = sum_of_squares[float](<const float *> data, size)
    else:
        with nogil:
            total = sum_of_squares[double](<const double *> data, size)
    return total
