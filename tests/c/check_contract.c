/* The known answers of Philox and the frozen masks and words, against philox.h and against the
 * kernels of every instruction set that runs here. No Python.
 *
 *   check_contract DIRECTORY-OF-THE-TEXT-FILES
 */
#include "check.h"

#define LINE 8192

static FILE *open_text(const char *directory, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "r");
    if (!f) {
        printf("cannot read %s\n", path);
        exit(2);
    }
    return f;
}

/* The next line that is a record; 0 at the end of the file. */
static int next_record(FILE *f, char *line) {
    while (fgets(line, LINE, f)) {
        if (!strchr(line, '\n')) {
            printf("a line is longer than %d characters\n", LINE);
            exit(2);
        }
        if (line[0] != '#' && line[0] != '\n') return 1;
    }
    return 0;
}

static void malformed(const char *line) {
    printf("not a record: %.60s\n", line);
    exit(2);
}

static void known_answers(const char *directory) {
    FILE *f = open_text(directory, "philox_known_answers.txt");
    char line[LINE];
    long before = passed;
    while (next_record(f, line)) {
        uint32_t v[10];
        char *at = line;
        for (int i = 0; i < 10; ++i) v[i] = (uint32_t)strtoul(at, &at, 16);
        const dropcore_block counter = {{v[0], v[1], v[2], v[3]}};
        const dropcore_block out = dropcore_philox(counter, v[4], v[5]);
        CHECK(!memcmp(out.word, v + 6, sizeof out.word), "Philox of %s", line);
    }
    fclose(f);
    printf("philox.h: %ld known answers\n", passed - before);
}

static dropcore_address read_address(const char *line, char **at) {
    const uint64_t seed = strtoull(*at, at, 16);
    const uint32_t stream = (uint32_t)strtoul(*at, at, 10);
    const uint32_t step = (uint32_t)strtoul(*at, at, 10);
    const uint32_t domain = (uint32_t)strtoul(*at, at, 10);
    if (stream >> 28 || domain > 15) malformed(line);
    return dropcore_address_of(seed, stream, step, domain);
}

static void frozen_words(const char *directory) {
    FILE *f = open_text(directory, "frozen_words.txt");
    char line[LINE];
    long before = passed;
    while (next_record(f, line)) {
        char *at = strchr(line, ' ');
        if (!at) malformed(line);
        const dropcore_address a = read_address(line, &at);
        const uint64_t i = strtoull(at, &at, 10);
        const uint32_t word = (uint32_t)strtoul(at, &at, 16);
        if (!strncmp(line, "block ", 6)) {
            dropcore_block b = dropcore_block_at(&a, i);
            int same = b.word[0] == word;
            for (int q = 1; q < 4; ++q) same &= b.word[q] == (uint32_t)strtoul(at, &at, 16);
            CHECK(same, "philox.h: %s", line);
            const cdrop_kernels *kernels;
            for (int k = 0; (kernels = kernels_at(k)); ++k) {
                uint32_t w[4];
                kernels->words(&a, i, 1, w);
                CHECK(!memcmp(w, b.word, sizeof w), "%s: %s", kernels->name, line);
            }
        } else if (!strncmp(line, "uniform ", 8)) {
            CHECK(dropcore_uniform(&a, i) == word, "philox.h: %s", line);
            const cdrop_kernels *kernels;
            for (int k = 0; (kernels = kernels_at(k)); ++k) {
                uint32_t u[DROPCORE_GROUP];
                kernels->uniform(&a, i / DROPCORE_GROUP, 1, u);
                CHECK(u[i % DROPCORE_GROUP] == word, "%s: %s", kernels->name, line);
            }
        } else if (!strncmp(line, "noise ", 6)) {
            CHECK(dropcore_noise_word(&a, i) == word, "philox.h: %s", line);
        } else {
            malformed(line);
        }
    }
    fclose(f);
    printf("frozen words: %ld comparisons\n", passed - before);
}

typedef struct {
    dropcore_address address;
    uint64_t offset, threshold;
    size_t size;
    double keep;
    uint8_t *bits;
} frozen;

static frozen read_mask(const char *line) {
    frozen m;
    char *at = (char *)line, *end;
    m.address = read_address(line, &at);
    m.offset = strtoull(at, &at, 10);
    m.size = (size_t)strtoull(at, &at, 10);
    m.threshold = strtoull(at, &at, 16);
    m.keep = strtod(at, &end);
    if (end == at || !m.size) malformed(line);
    at = end + strspn(end, " ");
    const size_t bytes = (m.size + 7) / 8;
    m.bits = buffer(bytes);
    for (size_t i = 0; i < bytes; ++i) {
        unsigned byte;
        if (sscanf(at + 2 * i, "%2x", &byte) != 1) malformed(line);
        m.bits[i] = (uint8_t)byte;
    }
    return m;
}

static int kernel_draws(const cdrop_kernels *k, const frozen *m) {
    const cdrop_draw draw = {m->address, m->threshold};
    const uint64_t group = m->offset / DROPCORE_GROUP, first = m->offset % DROPCORE_GROUP;
    const size_t n_groups = (size_t)((first + m->size + DROPCORE_GROUP - 1) / DROPCORE_GROUP);
    uint8_t *bits = buffer(n_groups * DROPCORE_GROUP_BYTES);
    float *x = buffer(m->size * sizeof *x), *y = buffer(m->size * sizeof *y);
    int same = 1;
    k->decide(&draw, group, n_groups, bits);
    for (size_t i = 0; i < m->size; ++i) x[i] = (float)i + 1;
    k->dropout_f32(&draw, m->offset, m->size, 2, x, y, 0);
    for (size_t i = 0; i < m->size; ++i) {
        const int kept = bit_of(m->bits, i);
        same &= bit_of(bits, first + i) == kept;
        same &= y[i] == (kept ? 2 * x[i] : 0);
    }
    free(bits);
    free(x);
    free(y);
    return same;
}

static void frozen_masks(const char *directory) {
    FILE *f = open_text(directory, "frozen_masks.txt");
    char line[LINE];
    long before = passed;
    while (next_record(f, line)) {
        const frozen m = read_mask(line);
        int same = 1;
        CHECK(dropcore_threshold(m.keep) == m.threshold, "threshold of keep %a", m.keep);
        for (size_t i = 0; i < m.size; ++i)
            same &= dropcore_is_kept(&m.address, m.threshold, m.offset + i) == bit_of(m.bits, i);
        CHECK(same, "philox.h: %.90s", line);
        const cdrop_kernels *kernels;
        for (int k = 0; (kernels = kernels_at(k)); ++k)
            CHECK(kernel_draws(kernels, &m), "%s: %.90s", kernels->name, line);
        free(m.bits);
    }
    fclose(f);
    printf("frozen masks: %ld comparisons\n", passed - before);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        printf("usage: check_contract DIRECTORY\n");
        return 2;
    }
    const cdrop_kernels *kernels;
    printf("instruction sets:");
    for (int k = 0; (kernels = kernels_at(k)); ++k) printf(" %s", kernels->name);
    printf("\n");
    known_answers(argv[1]);
    frozen_words(argv[1]);
    frozen_masks(argv[1]);
    return report();
}
