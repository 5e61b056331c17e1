# What `cimport dropcore` sees: the C table, nothing that has to be linked.
#
#     cimport dropcore
#     cdef const dropcore.dropcore_api *api = dropcore.dropcore_import()
#
# dropcore/dropcore.h says what the functions do. They need no GIL and raise nothing: they return
# DROPCORE_OK or a negative DROPCORE_BAD_...

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "Python.h":
    pass

cdef extern from "dropcore/dropcore.h" nogil:
    int DROPCORE_API_VERSION
    int DROPCORE_OK
    int DROPCORE_BAD_KEEP
    int DROPCORE_BAD_KEY
    int DROPCORE_BAD_INDEX
    int DROPCORE_BAD_NORM
    int DROPCORE_BAD_SHAPE

    ctypedef struct dropcore_api:
        uint32_t version
        uint32_t size
        int (*packed_mask)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                           double keep, uint64_t offset, size_t n, uint8_t *out) noexcept nogil
        int (*dropout_f32)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                           double keep, uint64_t offset, size_t n, const float *x,
                           float *out) noexcept nogil
        int (*dropout_f64)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                           double keep, uint64_t offset, size_t n, const double *x,
                           double *out) noexcept nogil
        int (*dropout_f16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                           double keep, uint64_t offset, size_t n, const uint16_t *x,
                           uint16_t *out) noexcept nogil
        int (*dropout_bf16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                            double keep, uint64_t offset, size_t n, const uint16_t *x,
                            uint16_t *out) noexcept nogil
        int (*apply_f32)(double keep, const uint8_t *bits, uint64_t first, size_t n, const float *x,
                         float *out) noexcept nogil
        int (*apply_f64)(double keep, const uint8_t *bits, uint64_t first, size_t n,
                         const double *x, double *out) noexcept nogil
        int (*apply_f16)(double keep, const uint8_t *bits, uint64_t first, size_t n,
                         const uint16_t *x, uint16_t *out) noexcept nogil
        int (*apply_bf16)(double keep, const uint8_t *bits, uint64_t first, size_t n,
                          const uint16_t *x, uint16_t *out) noexcept nogil
        int (*mask_f32)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                        uint64_t offset, size_t n, float *out) noexcept nogil
        int (*mask_f64)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                        uint64_t offset, size_t n, double *out) noexcept nogil
        int (*mask_f16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                        uint64_t offset, size_t n, uint16_t *out) noexcept nogil
        int (*mask_bf16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                         double keep, uint64_t offset, size_t n, uint16_t *out) noexcept nogil
        int (*threshold)(double keep, uint64_t *out) noexcept nogil
        int (*uniforms)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                        uint64_t offset, size_t n, uint32_t *out) noexcept nogil
        int (*normal_f32)(uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset, size_t n,
                          float *out) noexcept nogil
        int (*normal_f64)(uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset, size_t n,
                          double *out) noexcept nogil
        int (*max_norm_rows_f32)(double max_norm, size_t rows, size_t columns, size_t stride,
                                 float *w, size_t *shortened) noexcept nogil
        int (*max_norm_rows_f64)(double max_norm, size_t rows, size_t columns, size_t stride,
                                 double *w, size_t *shortened) noexcept nogil
        int (*max_norm_columns_f32)(double max_norm, size_t rows, size_t columns, size_t stride,
                                    float *w, size_t *shortened) noexcept nogil
        int (*max_norm_columns_f64)(double max_norm, size_t rows, size_t columns, size_t stride,
                                    double *w, size_t *shortened) noexcept nogil

cdef extern from "dropcore/philox.h" nogil:
    int DROPCORE_CONTRACT_VERSION
    int DROPCORE_GROUP
    int DROPCORE_GROUP_BYTES
    int DROPCORE_PLANES
    int DROPCORE_PHILOX_ROUNDS
    uint32_t DROPCORE_DOMAIN_TRAINING
    uint32_t DROPCORE_DOMAIN_NOISE
    uint32_t DROPCORE_DOMAIN_MONTE_CARLO
    uint64_t DROPCORE_KEEP_ALL

    ctypedef struct dropcore_block:
        uint32_t[4] word

    ctypedef struct dropcore_address:
        uint32_t[2] key
        uint32_t step
        uint32_t domain_stream

    # One element or one group of elements at a time.
    dropcore_address dropcore_address_of(uint64_t seed, uint32_t stream, uint32_t step,
                                         uint32_t domain)
    uint64_t dropcore_threshold(double keep)
    bint dropcore_is_kept(const dropcore_address *address, uint64_t threshold, uint64_t index)
    dropcore_block dropcore_decide(const dropcore_address *address, uint64_t threshold,
                                   uint64_t group)
    uint32_t dropcore_bit_of(const dropcore_block *block, unsigned e)
    uint32_t dropcore_uniform(const dropcore_address *address, uint64_t index)
    uint32_t dropcore_noise_word(const dropcore_address *address, uint64_t index)
    dropcore_block dropcore_philox(dropcore_block counter, uint32_t key0, uint32_t key1)
    dropcore_block dropcore_block_at(const dropcore_address *address, uint64_t block)
    dropcore_block dropcore_plane_at(const dropcore_address *address, uint64_t group, unsigned j)

cdef extern from "dropcore/dropcore.h":
    const dropcore_api *dropcore_import() except NULL
