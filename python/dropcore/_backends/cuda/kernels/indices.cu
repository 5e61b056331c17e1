/* Positions in sorted indices. */

/* The number of elements less than x among n sorted ones. */
INLINE i64 less_than(const i64 *sorted, i64 n, i64 x) {
    i64 from = 0, to = n;
    while (from < to) {
        const i64 middle = from + (to - from) / 2;
        if (sorted[middle] < x)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

/* For each of `size` units its position, the first of equal ones, among n sorted units, or -1. */
KERNEL find_units(const i64 *units, i64 n, i64 size, i64 *positions) {
    for (i64 unit = FIRST; unit < size; unit += STRIDE) {
        const i64 at = less_than(units, n, unit);
        positions[unit] = at < n && units[at] == unit ? at : -1;
    }
}

/* Indices, with the padding and those out of range replaced by `rows`, so that they sort last. */
KERNEL row_keys(const i64 *indices, i64 n, i64 rows, i64 padding, i64 *keys) {
    for (i64 i = FIRST; i < n; i += STRIDE) {
        const i64 index = indices[i];
        keys[i] = index < 0 || index >= rows || index == padding ? rows : index;
    }
}

/* For each of the sorted keys the start of its run of equal ones. */
KERNEL run_starts(const i64 *sorted, i64 n, i64 *starts) {
    for (i64 i = FIRST; i < n; i += STRIDE) starts[i] = less_than(sorted, i, sorted[i]);
}
