# The C blocks, as the drivers see them: see kernels.h, serial.h, permutation.h and
# runtime.h.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "kernels.h" nogil:
    bint CDROP_BIG_ENDIAN

    ctypedef struct dropcore_block:
        uint32_t word[4]

    ctypedef struct dropcore_address:
        pass

    dropcore_address dropcore_address_of(uint64_t seed, uint32_t stream, uint32_t step,
                                         uint32_t domain)
    dropcore_block dropcore_block_at(const dropcore_address *address, uint64_t block)
    uint32_t dropcore_uniform(const dropcore_address *address, uint64_t i)
    uint64_t dropcore_threshold(double keep)

    int dropcore_is_kept(const dropcore_address *address, uint64_t threshold, uint64_t i)

    unsigned cdrop_planes(uint64_t threshold)

    ctypedef struct cdrop_draw:
        dropcore_address address
        uint64_t threshold

    uint32_t CDROP_PERMUTATION_STREAMS

    ctypedef struct cdrop_permutation:
        unsigned rounds

    ctypedef struct cdrop_factor:
        const void *data
        int64_t panel_stride
        int64_t depth_stride
        const int64_t *panel_index
        const int64_t *depth_index
        const uint8_t *bits
        int64_t bit_first
        int64_t bit_panel_stride
        int64_t bit_depth_stride
        double scale

    ctypedef struct cdrop_patches:
        const void *data
        int64_t height
        int64_t width
        int64_t channels
        int64_t first_channel
        int64_t taken
        int64_t out_height
        int64_t out_width
        int64_t kernel_height
        int64_t kernel_width
        int64_t stride_height
        int64_t stride_width
        int64_t dilation_height
        int64_t dilation_width
        int64_t pad_before_height
        int64_t pad_before_width

    ctypedef struct cdrop_plane:
        cdrop_patches patches
        int64_t maps
        int64_t columns
        int64_t slots
        int64_t width
        int64_t image
        int64_t row
        int64_t rows
        int64_t left
        int64_t wide
        int64_t column

    ctypedef struct cdrop_pool:
        int64_t height
        int64_t width
        int64_t channels
        int64_t out_height
        int64_t out_width
        int64_t kernel_height
        int64_t kernel_width
        int64_t stride_height
        int64_t stride_width
        int64_t pad_before_height
        int64_t pad_before_width
        const int64_t *lengths
        int count_padding

    ctypedef struct cdrop_ahead:
        const cdrop_ahead *also
        const char *data
        int64_t rows
        int64_t bytes
        int64_t stride
        const int64_t *index

    int CDROP_SGD
    int CDROP_ADAM
    int CDROP_RMSPROP
    int CDROP_ADAGRAD
    int CDROP_ADADELTA

    ctypedef struct cdrop_hyperparameters:
        double rate
        double momentum
        double decay
        double beta_1
        double beta_2
        double rest_1
        double rest_2
        double scale
        double epsilon
        double keep
        int nesterov

    ctypedef void (*cdrop_update_f32)(size_t, const cdrop_hyperparameters *, const float *,
                                      float *, float *, float *, float *, double *) noexcept nogil
    ctypedef void (*cdrop_update_f64)(size_t, const cdrop_hyperparameters *, const double *,
                                      double *, double *, double *, double *,
                                      double *) noexcept nogil

    int CDROP_DROPCONNECT_Y
    int CDROP_DROPCONNECT_DW
    int CDROP_DROPCONNECT_DX

    double CDROP_WIDE_SCALE

    enum:
        CDROP_RELU
        CDROP_LEAKY_RELU
        CDROP_ELU
        CDROP_SELU
        CDROP_GELU
        CDROP_GELU_TANH
        CDROP_SILU
        CDROP_TANH
        CDROP_SIGMOID
        CDROP_SOFTPLUS
    int CDROP_CELL_TANH
    int CDROP_CELL_RELU
    int CDROP_CELL_LSTM
    int CDROP_CELL_GRU

    ctypedef struct cdrop_kernels:
        const char *name
        void (*permute)(const cdrop_permutation *, int, size_t, uint64_t *) noexcept nogil
        void (*dropout_f32)(const cdrop_draw *, uint64_t, size_t, float, const float *, float *,
                            int) noexcept nogil
        void (*dropout_f64)(const cdrop_draw *, uint64_t, size_t, double, const double *, double *,
                            int) noexcept nogil
        void (*dropout_f16)(const cdrop_draw *, uint64_t, size_t, float, const uint16_t *,
                            uint16_t *, int) noexcept nogil
        void (*dropout_bf16)(const cdrop_draw *, uint64_t, size_t, float, const uint16_t *,
                             uint16_t *, int) noexcept nogil
        void (*apply_f32)(size_t, const uint8_t *, uint64_t, float, const float *, float *,
                          int) noexcept nogil
        void (*apply_f64)(size_t, const uint8_t *, uint64_t, double, const double *, double *,
                          int) noexcept nogil
        void (*apply_f16)(size_t, const uint8_t *, uint64_t, float, const uint16_t *, uint16_t *,
                          int) noexcept nogil
        void (*apply_bf16)(size_t, const uint8_t *, uint64_t, float, const uint16_t *, uint16_t *,
                           int) noexcept nogil
        int tile_rows_f32
        int tile_rows_f64
        int tile_columns_f32
        int tile_columns_f64
        void (*pack_f32)(const cdrop_factor *, int64_t, int64_t, int64_t, int64_t, int,
                         float *) noexcept nogil
        void (*pack_f64)(const cdrop_factor *, int64_t, int64_t, int64_t, int64_t, int,
                         double *) noexcept nogil
        void (*block_f32)(int64_t, int64_t, int64_t, const float *, const float *, float *, int64_t,
                          int, const cdrop_ahead *) noexcept nogil
        void (*block_f64)(int64_t, int64_t, int64_t, const double *, const double *, double *,
                          int64_t, int, const cdrop_ahead *) noexcept nogil
        void (*block_along_f32)(int64_t, int64_t, int64_t, const float *const *, const float *,
                                float *, int64_t, int) noexcept nogil
        void (*block_across_f32)(int64_t, int64_t, int64_t, const float *const *, const float *,
                                 float *, int64_t, int) noexcept nogil
        void (*lines_f32)(const cdrop_patches *, int64_t, int64_t, int64_t, int64_t, int64_t,
                          float *, const float **) noexcept nogil
        int lanes_f32
        void (*plane_product_f32)(const cdrop_plane *, const float *, float *, int64_t *,
                                  float *) noexcept nogil
        void (*plane_gradient_f32)(const cdrop_plane *, const float *, float *, int64_t *,
                                   float *) noexcept nogil
        void (*pool_f32)(const cdrop_pool *, int64_t, int64_t, const float *, float *,
                         int32_t *) noexcept nogil
        void (*pool_back_f32)(const cdrop_pool *, int64_t, const float *, const int32_t *,
                              float *) noexcept nogil
        void (*epilogue_f32)(int64_t, int64_t, const float *, int, const uint8_t *, uint64_t,
                             int64_t, float, float *, int64_t) noexcept nogil
        void (*block_along_f64)(int64_t, int64_t, int64_t, const double *const *, const double *,
                                double *, int64_t, int) noexcept nogil
        void (*block_across_f64)(int64_t, int64_t, int64_t, const double *const *, const double *,
                                 double *, int64_t, int) noexcept nogil
        void (*lines_f64)(const cdrop_patches *, int64_t, int64_t, int64_t, int64_t, int64_t,
                          double *, const double **) noexcept nogil
        int lanes_f64
        void (*plane_product_f64)(const cdrop_plane *, const double *, double *, int64_t *,
                                  double *) noexcept nogil
        void (*plane_gradient_f64)(const cdrop_plane *, const double *, double *, int64_t *,
                                   double *) noexcept nogil
        void (*pool_f64)(const cdrop_pool *, int64_t, int64_t, const double *, double *,
                         int32_t *) noexcept nogil
        void (*pool_back_f64)(const cdrop_pool *, int64_t, const double *, const int32_t *,
                              double *) noexcept nogil
        void (*epilogue_f64)(int64_t, int64_t, const double *, int, const uint8_t *, uint64_t,
                             int64_t, double, double *, int64_t) noexcept nogil
        void (*epilogue_backward_f32)(size_t, float, const float *, const float *, float *,
                                      float *) noexcept nogil
        void (*epilogue_backward_f64)(size_t, double, const double *, const double *, double *,
                                      double *) noexcept nogil
        void (*dropconnect_f32)(int, const cdrop_draw *, const uint8_t *, uint64_t, int64_t,
                                int64_t, int64_t, const float *, const float *,
                                float *) noexcept nogil
        void (*dropconnect_f64)(int, const cdrop_draw *, const uint8_t *, uint64_t, int64_t,
                                int64_t, int64_t, const double *, const double *,
                                double *) noexcept nogil

        void (*add_squares_f32)(int64_t, int64_t, int64_t, const float *, double *) noexcept nogil
        double (*sum_squares_f32)(size_t, const float *) noexcept nogil
        cdrop_update_f32 *update_f32
        void (*sgd_some_f32)(size_t, const int64_t *, const cdrop_hyperparameters *, const float *,
                             float *, float *) noexcept nogil
        void (*add_squares_f64)(int64_t, int64_t, int64_t, const double *, double *) noexcept nogil
        void (*activate_f32)(int, size_t, float, const float *, float *) noexcept nogil
        void (*activate_back_f32)(int, size_t, float, const float *, const float *,
                                  float *) noexcept nogil
        void (*softmax_f32)(size_t, size_t, const float *, float *) noexcept nogil
        void (*softmax_back_f32)(size_t, size_t, const float *, const float *,
                                 float *) noexcept nogil
        void (*activate_f64)(int, size_t, double, const double *, double *) noexcept nogil
        void (*activate_back_f64)(int, size_t, double, const double *, const double *,
                                  double *) noexcept nogil
        void (*softmax_f64)(size_t, size_t, const double *, double *) noexcept nogil
        void (*softmax_back_f64)(size_t, size_t, const double *, const double *,
                                 double *) noexcept nogil
        void (*column_moments_f32)(size_t, size_t, const float *, double *,
                                   double *) noexcept nogil
        void (*map_columns_f32)(size_t, size_t, const float *, const float *, const float *,
                                const float *, float *) noexcept nogil
        void (*column_products_f32)(size_t, size_t, const float *, const float *, const float *,
                                    double *, double *) noexcept nogil
        void (*map_columns_back_f32)(size_t, size_t, const float *, const float *, const float *,
                                     const float *, const float *, const float *,
                                     float *) noexcept nogil
        void (*normalize_rows_f32)(size_t, size_t, double, const float *, const float *,
                                   const float *, float *, double *, double *) noexcept nogil
        void (*normalize_rows_back_f32)(size_t, size_t, const float *, const double *,
                                        const double *, const float *, const float *, float *,
                                        double *, double *) noexcept nogil
        void (*column_moments_f64)(size_t, size_t, const double *, double *,
                                   double *) noexcept nogil
        void (*map_columns_f64)(size_t, size_t, const double *, const double *, const double *,
                                const double *, double *) noexcept nogil
        void (*column_products_f64)(size_t, size_t, const double *, const double *, const double *,
                                    double *, double *) noexcept nogil
        void (*map_columns_back_f64)(size_t, size_t, const double *, const double *, const double *,
                                     const double *, const double *, const double *,
                                     double *) noexcept nogil
        void (*normalize_rows_f64)(size_t, size_t, double, const double *, const double *,
                                   const double *, double *, double *, double *) noexcept nogil
        void (*normalize_rows_back_f64)(size_t, size_t, const double *, const double *,
                                        const double *, const double *, const double *, double *,
                                        double *, double *) noexcept nogil
        double (*sum_squares_f64)(size_t, const double *) noexcept nogil
        cdrop_update_f64 *update_f64
        void (*sgd_some_f64)(size_t, const int64_t *, const cdrop_hyperparameters *, const double *,
                             double *, double *) noexcept nogil
        void (*axpy_f32)(size_t, const uint8_t *, uint64_t, float, const float *,
                         float *) noexcept nogil
        void (*cell_f32)(int, size_t, float *, float *, const float *, const float *, float *,
                         float *) noexcept nogil
        void (*cell_back_f32)(int, size_t, const float *, const float *, const float *,
                              const float *, float *, float *, float *) noexcept nogil
        void (*mix_f32)(size_t, const uint8_t *, uint64_t, float, const float *, const float *,
                        float *) noexcept nogil
        void (*mix_back_f32)(size_t, const uint8_t *, uint64_t, float, float *,
                             float *) noexcept nogil
        void (*axpy_f64)(size_t, const uint8_t *, uint64_t, double, const double *,
                         double *) noexcept nogil
        void (*cell_f64)(int, size_t, double *, double *, const double *, const double *, double *,
                         double *) noexcept nogil
        void (*cell_back_f64)(int, size_t, const double *, const double *, const double *,
                              const double *, double *, double *, double *) noexcept nogil
        void (*mix_f64)(size_t, const uint8_t *, uint64_t, double, const double *, const double *,
                        double *) noexcept nogil
        void (*mix_back_f64)(size_t, const uint8_t *, uint64_t, double, double *,
                             double *) noexcept nogil

cdef extern from "runtime.h" nogil:
    const cdrop_kernels *cdrop_active
    const char *cdrop_isa_at(int n)
    const char *const *cdrop_known_isas()
    int cdrop_use_isa(const char *name)
    int cdrop_team_for(double work)
    void cdrop_set_threads(int n)
    int cdrop_max_threads()
    void cdrop_set_available(int n)
    int cdrop_has_openmp()
    int cdrop_has_small_stacks()
    int cdrop_last_team()
    void cdrop_note_team()
    size_t cdrop_cache_bytes()
    size_t CDROP_MEMORY_LIMIT
    void *cdrop_memory_take(size_t bytes)
    void cdrop_memory_give(void *memory, size_t bytes)
    size_t cdrop_memory_waiting()
    size_t cdrop_memory_release()
    void *cdrop_scratch_take(size_t bytes)
    void cdrop_scratch_give(void *scratch)
    size_t cdrop_scratch_release()
    unsigned cdrop_flush_denormals()
    void cdrop_restore_denormals(unsigned before)


cdef extern from "serial.h" nogil:
    int CDROP_MAX_DIMS
    enum:
        CDROP_CLIP_COLUMNS
    int CDROP_F32
    int CDROP_F64
    int CDROP_F16
    int CDROP_BF16

    ctypedef struct cdrop_layout:
        int ndim
        int64_t *shape
        int64_t *x
        int64_t *out
        int64_t *bit
        int64_t *scale

    void cdrop_merge_axes(cdrop_layout *layout)
    void cdrop_packed(const cdrop_draw *draw, uint64_t index, size_t n, uint8_t *bits)
    void cdrop_packed_each(const dropcore_address *address, uint64_t offset,
                           const cdrop_layout *layout, const uint64_t *thresholds, int64_t first,
                           size_t n, uint8_t *bits)
    int CDROP_WORDS
    int CDROP_NORMAL_F32
    int CDROP_NORMAL_F64
    int CDROP_UNIFORM
    void cdrop_fill(int what, const dropcore_address *address, uint64_t index, size_t n, void *out)
    int64_t cdrop_segments(const cdrop_layout *layout)
    void cdrop_apply_segments(int dtype, const cdrop_layout *layout, const char *x, char *out,
                              const uint8_t *bits, double scale, const double *scales,
                              int64_t first, int64_t last)
    int64_t cdrop_clip_rows_f32(float *w, int64_t n, double max_norm, int64_t first, int64_t last)
    int64_t cdrop_clip_rows_f64(double *w, int64_t n, double max_norm, int64_t first, int64_t last)
    int64_t cdrop_clip_columns_f32(float *w, int64_t n, int64_t columns, int64_t stride,
                                   double max_norm, double *square)
    int64_t cdrop_clip_columns_f64(double *w, int64_t n, int64_t columns, int64_t stride,
                                   double max_norm, double *square)


cdef extern from "attention.h" nogil:
    ctypedef struct cdrop_heads:
        void *data
        int64_t batch, head, row

    ctypedef struct cdrop_attention:
        int64_t batches, heads, key_heads, queries, keys, size, value_size
        double scale
        int causal
        const int64_t *lengths
        cdrop_heads q, k, v, bias
        int dropped
        cdrop_draw draw
        const uint8_t *bits
        uint64_t offset
        int64_t bit_batch, bit_head, bit_query, bit_key
        double keep_scale

    int CDROP_TILE_QUERIES
    int64_t cdrop_attention_part(const cdrop_attention *a)
    size_t cdrop_attention_room_f32(const cdrop_attention *a, int backward)
    size_t cdrop_attention_room_f64(const cdrop_attention *a, int backward)
    void cdrop_attention_begin_f32(void *room)
    void cdrop_attention_begin_f64(void *room)
    void cdrop_attend_f32(const cdrop_attention *a, int64_t batch, int64_t head, int64_t first,
                          int64_t last, const cdrop_heads *out, float *logsumexp, void *room)
    void cdrop_attend_f64(const cdrop_attention *a, int64_t batch, int64_t head, int64_t first,
                          int64_t last, const cdrop_heads *out, double *logsumexp, void *room)
    void cdrop_attend_back_f32(const cdrop_attention *a, int64_t batch, int64_t key_head,
                               int64_t first, int64_t last, const cdrop_heads *out,
                               const cdrop_heads *dout, const float *logsumexp,
                               const cdrop_heads *dk, const cdrop_heads *dv, float *dq,
                               int64_t dq_head, int64_t dq_row, void *room)
    void cdrop_attend_back_f64(const cdrop_attention *a, int64_t batch, int64_t key_head,
                               int64_t first, int64_t last, const cdrop_heads *out,
                               const cdrop_heads *dout, const double *logsumexp,
                               const cdrop_heads *dk, const cdrop_heads *dv, double *dq,
                               int64_t dq_head, int64_t dq_row, void *room)


cdef extern from "capi.h":
    const void *cdrop_api "(&cdrop_api)"


cdef extern from "permutation.h" nogil:
    void cdrop_permutation_for(cdrop_permutation *p, uint64_t n, uint64_t seed, uint32_t stream,
                               uint32_t step)
