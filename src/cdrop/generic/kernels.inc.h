/* Every kernel of one instruction set, and its table. The includer defines ISA, the vector
 * wrapper that the bodies ask for, and the V() names of the four dtypes. */

#define CONCAT_(a, b) a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define F(name) CONCAT(name, S)
#define V(name) CONCAT(CONCAT(v, S), name)

#include "mask.inc.h"
#include "permutation.inc.h"
#include "polynomials.inc.h"

#define S f32
#define T float
#define C float
#include "elementary.inc.h"
#include "dropout.inc.h"
#include "product.inc.h"
#include "patches.inc.h"
#include "planes.inc.h"
#include "pool.inc.h"
#include "dropconnect.inc.h"
#include "norm.inc.h"
#include "optimizer.inc.h"
#include "activation.inc.h"
#include "attention.inc.h"
#include "normalization.inc.h"
#include "noise.inc.h"
#include "recurrent.inc.h"
#undef S
#undef T
#undef C

#define S f64
#define T double
#define C double
#include "elementary.inc.h"
#include "dropout.inc.h"
#include "product.inc.h"
#include "patches.inc.h"
#include "planes.inc.h"
#include "pool.inc.h"
#include "dropconnect.inc.h"
#include "norm.inc.h"
#include "optimizer.inc.h"
#include "activation.inc.h"
#include "attention.inc.h"
#include "normalization.inc.h"
#include "noise.inc.h"
#include "recurrent.inc.h"
#undef S
#undef T
#undef C

#define S f16
#define T uint16_t
#define C float
#include "dropout.inc.h"
#undef S
#undef T
#undef C

#define S bf16
#define T uint16_t
#define C float
#include "dropout.inc.h"
#undef S
#undef T
#undef C

#define TABLE(name) CONCAT(cdrop_kernels, name)
const cdrop_kernels TABLE(ISA) = {
    .name = ISA_NAME,
    .decide = decide,
    .decide_some = decide_some,
    .uniform = uniform,
    .words = words,
    .permute = permute,
    .decide_each = decide_each,
#define ENTRIES(T, C, S) .apply_##S = apply_##S, .dropout_##S = dropout_##S,
    CDROP_FOR_TYPES(ENTRIES)
#undef ENTRIES
#define ENTRIES(T, C, S)                                                                         \
    .tile_rows_##S = v_##S##_ROWS, .tile_columns_##S = v_##S##_COLUMNS * v_##S##_LANES,           \
    .pack_##S = pack_##S, .block_##S = block_##S, .epilogue_##S = epilogue_##S,                   \
    .block_along_##S = block_along_##S, .block_across_##S = block_across_##S,                    \
    .lines_##S = lines_##S, .pool_##S = pool_##S, .pool_back_##S = pool_back_##S,                \
    .lanes_##S = v_##S##_LANES, .plane_product_##S = plane_product_##S,                          \
    .plane_gradient_##S = plane_gradient_##S,                                                     \
    .epilogue_backward_##S = epilogue_backward_##S,                                               \
    .axpy_##S = axpy_##S, .dropconnect_##S = dropconnect_##S,
    CDROP_FOR_REAL_TYPES(ENTRIES)
#undef ENTRIES
#define ENTRIES(T, C, S) /* norms and updates */                                                  \
    .add_squares_##S = add_squares_##S, .sum_squares_##S = sum_squares_##S,                      \
    .shorten_##S = shorten_##S, .sgd_some_##S = sgd_some_##S,                                    \
    .update_##S = {sgd_##S, adam_##S, rmsprop_##S, adagrad_##S, adadelta_##S},
    CDROP_FOR_REAL_TYPES(ENTRIES)
#undef ENTRIES
#define ENTRIES(T, C, S) /* activations and normalisation */                                      \
    .activate_##S = activate_##S, .activate_back_##S = activate_back_##S,                        \
    .softmax_##S = softmax_##S, .softmax_back_##S = softmax_back_##S,                            \
    .softmax_tile_##S = softmax_tile_##S, .softmax_tile_back_##S = softmax_tile_back_##S,        \
    .column_moments_##S = column_moments_##S, .map_columns_##S = map_columns_##S,                \
    .column_products_##S = column_products_##S, .map_columns_back_##S = map_columns_back_##S,    \
    .normalize_rows_##S = normalize_rows_##S, .normalize_rows_back_##S = normalize_rows_back_##S,
    CDROP_FOR_REAL_TYPES(ENTRIES)
#undef ENTRIES
#define ENTRIES(T, C, S) /* recurrent cells */                                                    \
    .cell_##S = cell_##S, .cell_back_##S = cell_back_##S, .mix_##S = mix_##S,                      \
    .mix_back_##S = mix_back_##S,
    CDROP_FOR_REAL_TYPES(ENTRIES)
#undef ENTRIES
#define ENTRIES(T, C, S) .normal_##S = normal_##S,
    CDROP_FOR_REAL_TYPES(ENTRIES)
#undef ENTRIES
};
