/* Softcap, softmax, cross-entropy and the gradient of the logits, row by row in the cache. */

#include "kernel.h"

enum { PLAIN, SIGMOID, TANH };
enum { IGNORED = -100 };

/* The softcap's curve of z. */
static inline float curve(float z, long form)
{
    if (form == PLAIN) return z;
    float size = z < 0 ? -z : z;
    float e = exponential(form == TANH ? -2 * size : -size);
    if (form == TANH) return (z < 0 ? e - 1 : 1 - e) / (1 + e);
    return (z < 0 ? e : 1) / (1 + e);
}

static inline float slope(float c, long form)
{
    return form == PLAIN ? 1 : form == SIGMOID ? c - c * c : 1 - c * c;
}

static inline __attribute__((always_inline)) float one_row(
    number *restrict logits, long target, long vocabulary, long form, float limit, float shift, float scale, long differentiated,
    float *restrict capped, float *restrict share)
{
    float per_scale = 1 / scale, most[LANES], sum[LANES] = {0}, high = -INFINITY, total = 0;
    for (int l = 0; l < LANES; l++) most[l] = -INFINITY;
    long padded = (vocabulary + LANES - 1) / LANES * LANES;
    for (long j = 0; j < vocabulary; j++) capped[j] = curve((wide(logits[j]) + shift) * per_scale, form);
    for (long j = vocabulary; j < padded; j++) capped[j] = -INFINITY;
    for (long j = 0; j < padded; j += LANES)
        for (int l = 0; l < LANES; l++) most[l] = most[l] > capped[j + l] ? most[l] : capped[j + l];
    for (int l = 0; l < LANES; l++) high = high > most[l] ? high : most[l];
    for (long j = 0; j < padded; j += LANES)
        for (int l = 0; l < LANES; l++) {
            share[j + l] = exponential(limit * (capped[j + l] - high));
            sum[l] += share[j + l];
        }
    for (int l = 0; l < LANES; l++) total += sum[l];
    float loss = logf(total) - limit * (capped[target] - high);
    if (differentiated) {
        float per_total = 1 / total, factor = limit * per_scale;
        share[target] -= total;
        for (long j = 0; j < vocabulary; j++)
            logits[j] = narrow(factor * per_total * share[j] * slope(capped[j], form));
    }
    return loss;
}

/* logits (n, stride), of which the first `vocabulary` columns count, and targets (n) -> loss (n) in nats.
 * When differentiated, the logits become the gradient of the summed loss; it is zero in padding and where the target is ignored.
 * Returns 0, or 1 for a target out of range or no memory. */
int cross_entropy(
    number *logits, const int64_t *targets, float *loss, long rows, long stride, long vocabulary, long form, float limit,
    float shift, float scale, long differentiated, long threads)
{
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *scratch = malloc((2 * vocabulary + 2 * LANES) * sizeof *scratch), *share = scratch + vocabulary + LANES;
        failed = scratch == NULL;
#pragma omp for
        for (long r = 0; r < rows; r++) {
            number *row = logits + r * stride;
            loss[r] = 0;
            long target = targets[r], kept = target == IGNORED ? 0 : vocabulary;
            if (kept && (target < 0 || target >= vocabulary)) failed = 1;
            if (kept && !failed)
                loss[r] = form == PLAIN     ? one_row(row, target, vocabulary, PLAIN, 1, 0, 1, differentiated, scratch, share)
                          : form == SIGMOID ? one_row(row, target, vocabulary, SIGMOID, limit, shift, scale, differentiated, scratch, share)
                                            : one_row(row, target, vocabulary, TANH, limit, shift, scale, differentiated, scratch, share);
            if (differentiated) memset(row + kept, 0, (stride - kept) * sizeof *row);
        }
        free(scratch);
    }
    return failed;
}

/* total += x, count numbers. */
int accumulate(float *restrict total, const number *restrict x, long count, long threads)
{
    PARALLEL(count)
    for (long i = 0; i < count; i++) total[i] += wide(x[i]);
    return 0;
}
