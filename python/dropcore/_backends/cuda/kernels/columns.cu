/* Sums of columns. The order of the additions depends on the shape alone. */

/* A block of LINES warps sums 32 columns of a chunk of rows. sums: (chunk, column). */
KERNEL sum_columns(const STORED *x, i64 rows, i64 columns, i64 chunk_rows, REAL *sums) {
    __shared__ REAL scratch[LINES][WARP];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    const i64 tiles = (columns + WARP - 1) / WARP, chunks = (rows + chunk_rows - 1) / chunk_rows;
    for (i64 task = blockIdx.x; task < tiles * chunks; task += gridDim.x) {
        const i64 column = task % tiles * WARP + lane, chunk = task / tiles;
        const i64 end = (chunk + 1) * chunk_rows < rows ? (chunk + 1) * chunk_rows : rows;
        REAL sum = (REAL)0;
        if (column < columns) {
#pragma unroll 4
            for (i64 r = chunk * chunk_rows + line; r < end; r += LINES)
                sum += widen(x[r * columns + column]);
        }
        scratch[line][lane] = sum;
        __syncthreads();
        if (line == 0 && column < columns) {
            REAL total = (REAL)0;
            for (int l = 0; l < LINES; ++l) total += scratch[l][lane];
            sums[chunk * columns + column] = total;
        }
        __syncthreads();
    }
}

/* The sums of all chunks, added in order. */
KERNEL add_chunks(const REAL *sums, i64 chunks, i64 columns, STORED *total) {
    for (i64 column = FIRST; column < columns; column += STRIDE) {
        REAL sum = (REAL)0;
        for (i64 chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * columns + column];
        total[column] = narrow<STORED>(sum);
    }
}
