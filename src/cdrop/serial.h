/* What one thread of a driver does: packed masks from any index, strided rows, clipped vectors. */
#ifndef CDROP_SERIAL_H
#define CDROP_SERIAL_H

#include "kernels.h"

#define CDROP_MAX_DIMS 64

enum { CDROP_F32, CDROP_F64, CDROP_F16, CDROP_BF16 };

/* Axes of an elementwise call after neighbours have been merged. Strides of x and out in bytes,
 * of the mask's bits and of scales or thresholds in elements; 0 along a shared axis. */
typedef struct {
    int ndim;
    int64_t shape[CDROP_MAX_DIMS];
    int64_t x[CDROP_MAX_DIMS], out[CDROP_MAX_DIMS];
    int64_t bit[CDROP_MAX_DIMS], scale[CDROP_MAX_DIMS];
} cdrop_layout;

/* Merge axes that step through everything as one; drop axes of length 1. At least one is left. */
void cdrop_merge_axes(cdrop_layout *layout);

/* n bits from `bit` on to the front of out, zeros behind them. */
void cdrop_move_bits(const uint8_t *bits, uint64_t bit, size_t n, uint8_t *out);

/* bits__n of the elements [index, index + n); zeros behind the end of the last byte. */
void cdrop_packed(const cdrop_draw *draw, uint64_t index, size_t n, uint8_t *bits);

/* The same with a threshold for each element, for [first, first + n) of a mask at `offset`. */
void cdrop_packed_each(const dropcore_address *address, uint64_t offset,
                       const cdrop_layout *layout, const uint64_t *thresholds, int64_t first,
                       size_t n, uint8_t *bits);

/* What fills an array from an index on: the words of the noise domain as they are, standard normals
 * of them, or the uniforms that decisions are made of. */
enum { CDROP_WORDS, CDROP_NORMAL_F32, CDROP_NORMAL_F64, CDROP_UNIFORM };
/* out__n of the elements [index, index + n). */
void cdrop_fill(int what, const dropcore_address *address, uint64_t index, size_t n, void *out);

/* A row is the last axis; long rows are cut, so that work items are about equal. */
#define CDROP_SEGMENT 4096
int64_t cdrop_segments(const cdrop_layout *layout);
/* out = bit ? x * scale : +0.0 for the segments [first, last). scales: one an element, or NULL. */
void cdrop_apply_segments(int dtype, const cdrop_layout *layout, const char *x, char *out,
                          const uint8_t *bits, double scale, const double *scales, int64_t first,
                          int64_t last);

/* Project vectors whose norm exceeds max_norm; the number of vectors that were written.
 * w__rn, rows [first, last): the norm runs over n. */
int64_t cdrop_clip_rows_f32(float *w, int64_t n, double max_norm, int64_t first, int64_t last);
int64_t cdrop_clip_rows_f64(double *w, int64_t n, double max_norm, int64_t first, int64_t last);
/* w__nc, at most CDROP_CLIP_COLUMNS columns with their squares: the norm runs over n. Overwrites
 * square. */
int64_t cdrop_clip_columns_f32(float *w, int64_t n, int64_t columns, int64_t stride,
                               double max_norm, double *square);
int64_t cdrop_clip_columns_f64(double *w, int64_t n, int64_t columns, int64_t stride,
                               double max_norm, double *square);

#endif
