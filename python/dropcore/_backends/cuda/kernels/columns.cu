/* Sums of columns, in an order that depends on the shape alone. */

/* Sums of the columns of chunks of rows, in blocks of 32 x LINES threads: (chunk, column). */
#define LINES 8
template <typename T>
INLINE void column_sums(const T *x, i64 rows, i64 columns, i64 chunk_rows, real_of<T> *sums) {
    typedef real_of<T> C;
    __shared__ C room[LINES][WARP];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    const i64 tiles = (columns + WARP - 1) / WARP, chunks = (rows + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles * chunks; task += gridDim.x) {
        const i64 column = task % tiles * WARP + lane, chunk = task / tiles;
        const i64 end = (chunk + 1) * chunk_rows < rows ? (chunk + 1) * chunk_rows : rows;
        C sum = (C)0;
        if (column < columns) {
#pragma unroll 4
            for (i64 r = chunk * chunk_rows + line; r < end; r += LINES)
                sum += widen(x[r * columns + column]);
        }
        room[line][lane] = sum;
        __syncthreads();
        if (line == 0 && column < columns) {
            C total = (C)0;
            for (int l = 0; l < LINES; ++l) total += room[l][lane];
            sums[chunk * columns + column] = total;
        }
        __syncthreads();
    }
}

template <typename T>
INLINE void chunks_added(const real_of<T> *sums, i64 chunks, i64 columns, T *total) {
    for (i64 column = FIRST; column < columns; column += STRIDE) {
        real_of<T> sum = (real_of<T>)0;
        for (i64 chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * columns + column];
        total[column] = narrow<T>(sum);
    }
}

KERNEL sum_columns(const STORED *x, i64 rows, i64 columns, i64 chunk_rows, REAL *sums) {
    column_sums(x, rows, columns, chunk_rows, sums);
}

KERNEL add_chunks(const REAL *sums, i64 chunks, i64 columns, STORED *total) {
    chunks_added<STORED>(sums, chunks, columns, total);
}
