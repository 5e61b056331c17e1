/* Lookup of rows of a weight, and the sum of the gradients of each row. */

/* y = weight[indices], with zero for the padding and NaN for indices out of range. */
KERNEL take_rows(const STORED *weight, i64 rows, i64 columns, const i64 *indices, i64 n,
                 i64 padding, STORED *y) {
    const REAL none = (REAL)__int_as_float(0x7FC00000);
    for (i64 i = FIRST; i < n * columns; i += STRIDE) {
        i64 r = i;
        const i64 column = split(r, columns), index = indices[r];
        if (index < 0 || index >= rows)
            y[i] = none;
        else
            y[i] = index == padding ? (REAL)0 : weight[index * columns + column];
    }
}

/* The sorted keys are runs of equal ones, which are cut into pieces. First the sum of each piece is
 * written to its first position, and zero to the others; then the first piece of a run adds those of
 * the others. Both go in the order of the batch. */
#define PIECE 64

/* Position i in the sorted order has the gradient of row order[i] of dy, or none if its key is `rows`
 * or above. */
KERNEL sum_pieces(const STORED *dy, i64 rows, i64 columns, const i64 *sorted, const i64 *order,
                  const i64 *starts, i64 n, STORED *sums) {
    for (i64 at = FIRST; at < n * columns; at += STRIDE) {
        i64 i = at;
        const i64 column = split(i, columns), start = starts[i];
        REAL sum = (REAL)0;
        if (sorted[i] < rows && (i - start) % PIECE == 0) {
            const i64 end = i + PIECE < n ? i + PIECE : n;
            for (i64 j = i; j < end && starts[j] == start; ++j)
                sum += dy[order[j] * columns + column];
        }
        sums[at] = sum;
    }
}

KERNEL add_pieces(i64 columns, const i64 *starts, i64 n, STORED *sums) {
    for (i64 at = FIRST; at < n * columns; at += STRIDE) {
        i64 i = at;
        const i64 column = split(i, columns);
        if (starts[i] != i || i + PIECE >= n || starts[i + PIECE] != i) continue;
        REAL sum = sums[at];
        for (i64 j = i + PIECE; j < n && starts[j] == i; j += PIECE) {
            sum += sums[j * columns + column];
            sums[j * columns + column] = (REAL)0;
        }
        sums[at] = sum;
    }
}
