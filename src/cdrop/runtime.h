/* Which kernels run, and on how many threads. */
#ifndef CDROP_RUNTIME_H
#define CDROP_RUNTIME_H

#include "kernels.h"

/* The kernels in use. Set by cdrop_use_isa, before any other call. */
extern const cdrop_kernels *cdrop_active;

/* The name of the n-th best set that was compiled in and that this processor has; NULL after the
 * last. */
const char *cdrop_isa_at(int n);
/* All sets known to the library, NULL last. */
const char *const *cdrop_known_isas(void);
/* Choose by name, or the best where name is NULL. 0, or -1 where it cannot run here. */
int cdrop_use_isa(const char *name);

/* A team for `work` nanoseconds of one thread's time, as estimated by the caller. */
int cdrop_team_for(double work);
/* What set_num_threads asked for (0: nothing), and the team that a large job gets. */
void cdrop_set_threads(int n);
int cdrop_max_threads(void);
/* The bound from affinity and cgroup, found out once when the library is loaded. */
void cdrop_set_available(int n);
/* 1 where OpenMP was compiled in. */
int cdrop_has_openmp(void);
/* What OMP_STACKSIZE and its kin ask for, 0 where they do not; whether it is too little for a team,
 * so that there is one thread. */
size_t cdrop_asked_stack(void);
int cdrop_has_small_stacks(void);
/* The team of the latest parallel region, for tests that must know that it was one. */
int cdrop_last_team(void);
/* Called inside a region, by one of its threads. */
void cdrop_note_team(void);
/* Of the last-level cache, as far as the system tells. */
size_t cdrop_cache_bytes(void);

/* Memory of arrays, 64-byte aligned, or NULL. What is given back waits for the next array of its size;
 * at most CDROP_MEMORY_LIMIT bytes wait. Any thread may call these. */
#define CDROP_MEMORY_LIMIT ((size_t)512 << 20)
void *cdrop_memory_take(size_t bytes);
void cdrop_memory_give(void *memory, size_t bytes);
size_t cdrop_memory_waiting(void);
/* Give all that waits to the system; how many bytes that was. */
size_t cdrop_memory_release(void);

/* Bytes, 64-byte aligned, that last until given back; kept for the next caller where possible. */
void *cdrop_scratch_take(size_t bytes);
void cdrop_scratch_give(void *scratch);
size_t cdrop_scratch_release(void);

/* Denormals are zero for this thread from now on, which keeps sums of tiny numbers as fast as
 * others; what to hand to restore. For products, optimisers and cells: never for masks, dropout
 * and max-norm. Does nothing on a processor that it does not know. */
unsigned cdrop_flush_denormals(void);
void cdrop_restore_denormals(unsigned before);

#endif
