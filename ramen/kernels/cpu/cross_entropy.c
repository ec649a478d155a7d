/* Softcap, softmax, cross-entropy and the gradient of the logits, row by row in the cache. */

#include "kernel.h"

enum { IGNORED = -100 };

/* The softcap's curve of z, a sigmoid, and its slope there; z itself without one. */
static inline float curve(float z, long capped)
{
    float e = exponential(z < 0 ? z : -z);
    return capped ? (z < 0 ? e : 1) / (1 + e) : z;
}

static inline float slope(float c, long capped)
{
    return capped ? c - c * c : 1;
}

enum { GROUP = 4 * LANES, BLOCK = 64 * LANES };

/* The highest of n numbers, a multiple of GROUP; any if there is a NaN. Four vectors at a time, as each waits for the one before it. */
static inline float highest(const float *x, long n)
{
    const vector *v = (const vector *)x;
    union { vector all; float lane[LANES]; } most;
    vector a = v[0], b = v[1], c = v[2], d = v[3];
    for (long i = 4; i < n / LANES; i += 4) {
        a = larger(a, v[i]), b = larger(b, v[i + 1]);
        c = larger(c, v[i + 2]), d = larger(d, v[i + 3]);
    }
    most.all = larger(larger(a, b), larger(c, d));
    float high = most.lane[0];
    for (int l = 1; l < LANES; l++) high = high > most.lane[l] ? high : most.lane[l];
    return high;
}

/* A row is done in blocks that stay in the first cache: e^(z - the block's highest), their sum, and their product with the softcap's
 * slope, which the row's sum then makes the gradient. */
static inline __attribute__((always_inline)) float one_row(
    number *restrict logits, long target, long vocabulary, long capped, float limit, float shift, float scale, long differentiated,
    float *restrict share, float *restrict highs)
{
    float per_scale = 1 / scale, high = -INFINITY, total = 0, curved[BLOCK];
    for (long start = 0, b = 0; start < vocabulary; start += BLOCK, b++) {
        long count = vocabulary - start < BLOCK ? vocabulary - start : BLOCK, padded = (count + GROUP - 1) / GROUP * GROUP;
        float sum[LANES] = {0}, own, here = 0;
        for (long j = 0; j < count; j++) curved[j] = curve((wide(logits[start + j]) + shift) * per_scale, capped);
        for (long j = count; j < padded; j++) curved[j] = -INFINITY;
        own = highest(curved, padded);
        for (long j = 0; j < padded; j += LANES)
            for (int l = 0; l < LANES; l++) {
                float e = exponential(limit * (curved[j + l] - own));
                sum[l] += e;
                share[start + j + l] = e * slope(curved[j + l], capped);
            }
        for (int l = 0; l < LANES; l++) here += sum[l];
        highs[b] = own;
        float next = high > own ? high : own;
        total = total * exponential(limit * (high - next)) + here * exponential(limit * (own - next));
        high = next;
    }
    float aim = curve((wide(logits[target]) + shift) * per_scale, capped), distance = limit * (aim - high);
    if (differentiated) {
        float factor = limit * per_scale;
        for (long start = 0, b = 0; start < vocabulary; start += BLOCK, b++) {
            long count = vocabulary - start < BLOCK ? vocabulary - start : BLOCK;
            float times = factor / total * exponential(limit * (highs[b] - high));
            for (long j = 0; j < count; j++) logits[start + j] = narrow(times * share[start + j]);
        }
        logits[target] = narrow(factor * (expf(distance) / total - 1) * slope(aim, capped));
    }
    return logf(total) - distance;
}

/* logits (n, stride), of which the first `vocabulary` columns count, and targets (n) -> loss (n) in nats.
 * When differentiated, the logits become the gradient of the summed loss; it is zero in padding and where the target is ignored.
 * Returns 0, or 1 for a target out of range or no memory. */
int cross_entropy(
    number *logits, const int64_t *targets, float *loss, long rows, long stride, long vocabulary, long capped, float limit,
    float shift, float scale, long differentiated, long threads)
{
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        long padded = vocabulary + GROUP;
        float *share = malloc((padded + vocabulary / BLOCK + 1) * sizeof *share), *highs = share + padded;
        failed = share == NULL;
#pragma omp for
        for (long r = 0; r < rows; r++) {
            number *row = logits + r * stride;
            loss[r] = 0;
            long target = targets[r], kept = target == IGNORED ? 0 : vocabulary;
            if (kept && (target < 0 || target >= vocabulary)) failed = 1;
            if (kept && !failed)
                loss[r] = capped ? one_row(row, target, vocabulary, 1, limit, shift, scale, differentiated, share, highs)
                                 : one_row(row, target, vocabulary, 0, 1, 0, 1, differentiated, share, highs);
            if (differentiated) memset(row + kept, 0, (stride - kept) * sizeof *row);
        }
        free(share);
    }
    return failed;
}

/* total += x, count numbers. */
int add_widened(float *restrict total, const number *restrict x, long count, long threads)
{
    PARALLEL(count)
    for (long i = 0; i < count; i++) total[i] += wide(x[i]);
    return 0;
}
