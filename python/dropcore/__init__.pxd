# What `cimport dropcore` sees: the C table, nothing that has to be linked.
#
#     cimport dropcore
#     cdef const dropcore.dropcore_api *api = dropcore.dropcore_import()

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "Python.h":
    pass

cdef extern from "dropcore/dropcore.h" nogil:
    int DROPCORE_API_VERSION
    int DROPCORE_OK
    int DROPCORE_BAD_KEEP
    int DROPCORE_BAD_KEY
    int DROPCORE_BAD_INDEX
    uint32_t DROPCORE_DOMAIN_TRAINING
    uint32_t DROPCORE_DOMAIN_NOISE
    uint32_t DROPCORE_DOMAIN_MONTE_CARLO

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

    # One element at a time, from dropcore/philox.h.
    ctypedef struct dropcore_address:
        pass
    dropcore_address dropcore_address_of(uint64_t seed, uint32_t stream, uint32_t step,
                                         uint32_t domain)
    uint32_t dropcore_uniform(const dropcore_address *address, uint64_t index)
    uint64_t dropcore_threshold(double keep)
    bint dropcore_is_kept(const dropcore_address *address, uint64_t threshold, uint64_t index)

cdef extern from "dropcore/dropcore.h":
    const dropcore_api *dropcore_import() except NULL
