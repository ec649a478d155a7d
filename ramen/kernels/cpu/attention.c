/* Causal attention within documents and a window, with QK norm and rotation, forward and backward.
 *
 * A token sees an unbroken run of keys: from `start` (its document's first token, or the window's) to itself. So work is done in
 * tiles of 32 queries x 32 keys that stay in the first-level cache, and tiles that nobody sees are not touched.
 * Flash attention: Dao et al. 2022, arXiv 2205.14135. Each (row, head) is one thread's, so results do not depend on the threads.
 */

#include "kernel.h"

#ifdef __AVX512F__
enum { ROWS = 8 };  /* of a block that is summed in registers: ROWS x 2 vectors of them */
#else
enum { ROWS = 4 };
#endif
enum { TILE = 32, AREA = TILE * TILE, AHEAD = 8 };
static const float EPS = 1.1920929e-07f;

/* One (row, head): where its numbers lie, and its shape. Packed buffers are padded with zeros to whole tiles and vectors. */
typedef struct {
    long time, width, stride, padded_time, padded_width;
    const float *table;  /* (T, K/2, 2) cosine and sine, or NULL */
    int norm;
    float scale;
} Shape;

/* Where a (TILE, TILE) has numbers: everywhere, on and below its diagonal, or on and above it. */
typedef enum { WHOLE, LOWER, UPPER } Part;

/* c (TILE, columns) = or += a (TILE, depth) b (depth, columns); a's element (m, k) is a[m * a_row + k * a_step]. */
static __attribute__((noinline)) void multiply(
    long columns, long depth, const float *a, long a_row, long a_step, const float *b, long b_row, float *c, long c_row, int add,
    Part part)
{
    for (long n = 0; n < columns; n += 2 * LANES)
        for (long m = 0; m < TILE; m += ROWS) {
            long from = part == UPPER ? m : 0, to = part == LOWER ? m + ROWS : depth;
            vector sum[ROWS][2];
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                float *row = c + (m + r) * c_row + n;
                sum[r][0] = add ? *(vector *)row : (vector){0};
                sum[r][1] = add ? *(vector *)(row + LANES) : (vector){0};
            }
            for (long k = from; k < to; k++) {
                vector first = *(const vector *)(b + k * b_row + n), second = *(const vector *)(b + k * b_row + n + LANES);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) {
                    float factor = a[(m + r) * a_row + k * a_step];
                    sum[r][0] += factor * first;
                    sum[r][1] += factor * second;
                }
            }
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                float *row = c + (m + r) * c_row + n;
                *(vector *)row = sum[r][0];
                *(vector *)(row + LANES) = sum[r][1];
            }
        }
}

static inline void widen(const number *restrict x, long n, float *restrict y)
{
    for (long i = 0; i < n; i++) y[i] = wide(x[i]);
}

/* y = scale x rotated(normalised(x)) at time t; returns what the norm multiplied by. y's padding is zero and stays so. */
static inline float prepare(const number *restrict x, const Shape *s, long t, float scale, float *restrict y)
{
    widen(x, s->width, y);
    float inverse = s->norm ? 1 / sqrtf(dot(y, y, s->padded_width) / s->width + EPS) : 1;
    const float *restrict turn = s->table + t * s->width;
    for (long c = 0; c < s->width; c += 2) {
        float a = inverse * scale * y[c], b = inverse * scale * y[c + 1];
        float cosine = s->table ? turn[c] : 1, sine = s->table ? turn[c + 1] : 0;
        y[c] = a * cosine - b * sine;
        y[c + 1] = b * cosine + a * sine;
    }
    return inverse;
}

/* dx from dy = d loss / d prepare(x) / scale and y = prepare(x). */
static inline void prepare_backward(
    const float *restrict dy, const float *restrict y, const Shape *s, long t, float scale, float inverse, number *restrict dx)
{
    float along = s->norm ? dot(dy, y, s->padded_width) / (s->width * scale) : 0;
    const float *restrict turn = s->table + t * s->width;
    for (long c = 0; c < s->width; c += 2) {
        float a = inverse * (scale * dy[c] - along * y[c]), b = inverse * (scale * dy[c + 1] - along * y[c + 1]);
        float cosine = s->table ? turn[c] : 1, sine = s->table ? turn[c + 1] : 0;
        dx[c] = narrow(a * cosine + b * sine);
        dx[c + 1] = narrow(b * cosine - a * sine);
    }
}

/* Ask for the numbers of a token to come: a head's are far apart, and no hardware foresees them. */
static inline void prefetch(const number *x, long width)
{
    for (long c = 0; c < width; c += 64 / sizeof *x) __builtin_prefetch(x + c);
}

/* (T, K) -> tiles of TILE tokens, each transposed: (T / TILE, K, TILE). Squares of vectors change places half by half. */
static void transpose(const float *x, const Shape *s, float *y)
{
    long width = s->padded_width;
    for (long t = 0; t < s->padded_time; t += LANES)
        for (long c = 0; c < width; c += LANES) {
            vector row[LANES];
            for (int r = 0; r < LANES; r++) row[r] = *(const vector *)(x + (t + r) * width + c);
#pragma GCC unroll 4
            for (int half = LANES / 2; half; half /= 2) {
                lanes upper, lower;
                for (int l = 0; l < LANES; l++) {
                    upper[l] = l & half ? l - half + LANES : l;
                    lower[l] = l & half ? l + LANES : l + half;
                }
#pragma GCC unroll 16
                for (int r = 0; r < LANES; r++)
                    if (!(r & half)) {
                        vector one = row[r], other = row[r + half];
                        row[r] = __builtin_shuffle(one, other, upper);
                        row[r + half] = __builtin_shuffle(one, other, lower);
                    }
            }
            for (int r = 0; r < LANES; r++)
                *(vector *)(y + (t / TILE * width + c + r) * TILE + t % TILE) = row[r];
        }
}

/* First key that query t sees. */
static inline long first_key(const int32_t *start, long window, long time, long t)
{
    t = t < time ? t : time - 1;
    return start[t] > t - window + 1 ? start[t] : t - window + 1;
}

/* -inf where a query of the tile at `query` does not see a key of the tile at `key`. */
static void hide(float *tile, const int32_t *start, long window, long time, long query, long key)
{
    for (long i = 0; i < TILE; i++) {
        long low = first_key(start, window, time, query + i) - key, high = query + i - key;
        for (long j = 0; j < TILE; j++)
            if (j < low || j > high) tile[i * TILE + j] = -INFINITY;
    }
}

/* Zero the padding of a packed buffer (T, K), or all of it where a row has some. */
static void clear_padding(float *x, const Shape *s)
{
    long from = s->width == s->padded_width ? s->time * s->padded_width : 0;
    memset(x + from, 0, (s->padded_time * s->padded_width - from) * sizeof *x);
}

static Shape shape_of(long time, long heads, long width, const float *table, int norm, float scale)
{
    long step = 2 * LANES;
    return (Shape){time, width, 3 * heads * width, (time + TILE - 1) / TILE * TILE, (width + step - 1) / step * step,
                   table, norm, scale};
}

static void forward_one(
    const Shape *s, const number *qkv, long heads, const int32_t *start, long window, float *scratch, number *out, float *lse)
{
    long size = s->padded_time * s->padded_width, part = heads * s->width, width = s->padded_width;
    float *q = scratch, *v = q + size, *k = v + size, *kt = k + size, *tiles = kt + size;
    for (int p = 0; p < 3; p++) clear_padding(scratch + p * size, s);
    for (long t = 0; t < s->time; t++) {
        const number *x = qkv + t * s->stride;
        for (int p = 0; p < 3; p++) prefetch(x + AHEAD * s->stride + p * part, s->width);
        prepare(x, s, t, s->scale, q + t * width);
        prepare(x + part, s, t, 1, k + t * width);
        widen(x + 2 * part, s->width, v + t * width);
    }
    transpose(k, s, kt);
    float *y = k;  /* k is done with */
    for (long query = 0; query < s->time; query += TILE) {
        long first = first_key(start, window, s->time, query) / TILE * TILE;
        long last_start = first_key(start, window, s->time, query + TILE - 1);
        float most[TILE][LANES], sum[TILE][LANES], high[TILE];
        for (int i = 0; i < TILE; i++)
            for (int l = 0; l < LANES; l++) most[i][l] = -INFINITY, sum[i][l] = 0;
        for (long key = first; key <= query; key += TILE) {
            float *tile = tiles + (key - first) * TILE;
            multiply(TILE, width, q + query * width, width, 1, kt + key * width, TILE, tile, TILE, 0, WHOLE);
            if (key == query || key < last_start) hide(tile, start, window, s->time, query, key);
            for (int i = 0; i < TILE; i++)
                for (int j = 0; j < TILE; j += LANES)
                    for (int l = 0; l < LANES; l++) {
                        float z = tile[i * TILE + j + l];
                        most[i][l] = most[i][l] > z ? most[i][l] : z;
                    }
        }
        for (int i = 0; i < TILE; i++) {
            high[i] = -INFINITY;
            for (int l = 0; l < LANES; l++) high[i] = high[i] > most[i][l] ? high[i] : most[i][l];
        }
        memset(y, 0, TILE * width * sizeof *y);
        for (long key = first; key <= query; key += TILE) {
            float *tile = tiles + (key - first) * TILE;
            for (int i = 0; i < TILE; i++)
                for (int j = 0; j < TILE; j += LANES)
                    for (int l = 0; l < LANES; l++) {
                        float p = exponential(tile[i * TILE + j + l] - high[i]);
                        tile[i * TILE + j + l] = p;
                        sum[i][l] += p;
                    }
            multiply(width, TILE, tile, TILE, 1, v + key * width, width, y, width, 1, key == query ? LOWER : WHOLE);
        }
        for (long i = 0; i < TILE && query + i < s->time; i++) {
            float total = 0;
            for (int l = 0; l < LANES; l++) total += sum[i][l];
            lse[query + i] = high[i] + logf(total);
            for (long c = 0; c < s->width; c++) out[(query + i) * part + c] = narrow(y[i * width + c] / total);
        }
    }
}

/* qkv (B, T, 3, H, K) -> out (B, T, H, K) and lse (B, H, T), the logarithm of each softmax's denominator. start (B, T). */
int attention_forward(
    const number *qkv, const float *table, const int32_t *start, number *out, float *lse, long batch, long time, long heads,
    long width, long window, float scale, long norm, long threads)
{
    Shape s = shape_of(time, heads, width, table, norm, scale);
    long floats = 4 * s.padded_time * s.padded_width + s.padded_time * TILE;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *scratch = aligned_alloc(64, floats * sizeof *scratch);
        failed = scratch == NULL;
#pragma omp for
        for (long i = 0; i < batch * heads; i++) {
            long b = i / heads, h = i % heads;
            if (scratch)
                forward_one(&s, qkv + b * time * s.stride + h * width, heads, start + b * time, window, scratch,
                            out + (b * time * heads + h) * width, lse + i * time);
        }
        free(scratch);
    }
    return failed;
}

static void backward_one(
    const Shape *s, const number *qkv, long heads, const int32_t *start, long window, const number *out, const float *lse,
    const number *grad, float *scratch, number *dqkv)
{
    long size = s->padded_time * s->padded_width, part = heads * s->width, width = s->padded_width, time = s->padded_time;
    float *q = scratch, *k = q + size, *v = k + size, *dy = v + size, *dk = dy + size, *dv = dk + size, *kt = dv + size;
    float *vt = kt + size, *row = vt + size, *delta = row, *total = row + time, *q_inverse = row + 2 * time;
    float *k_inverse = row + 3 * time, *dq = row + 4 * time, *p = dq + TILE * width, *dp = p + AREA;
    for (int p = 0; p < 4; p++) clear_padding(scratch + p * size, s);
    memset(dk, 0, 2 * size * sizeof *dk);
    memset(row, 0, 2 * time * sizeof *row);
    memset(p, 0, width * sizeof *p);
    for (long t = 0; t < s->time; t++) {
        const number *x = qkv + t * s->stride;
        for (int p = 0; p < 3; p++) prefetch(x + AHEAD * s->stride + p * part, s->width);
        q_inverse[t] = prepare(x, s, t, s->scale, q + t * width);
        k_inverse[t] = prepare(x + part, s, t, 1, k + t * width);
        total[t] = lse[t];
        prefetch(out + (t + AHEAD) * part, s->width);
        prefetch(grad + (t + AHEAD) * part, s->width);
        widen(x + 2 * part, s->width, v + t * width);
        widen(grad + t * part, s->width, dy + t * width);
        widen(out + t * part, s->width, p);
        delta[t] = dot(dy + t * width, p, width);
    }
    transpose(k, s, kt);
    transpose(v, s, vt);
    for (long query = 0; query < s->time; query += TILE) {
        long first = first_key(start, window, s->time, query) / TILE * TILE;
        long last_start = first_key(start, window, s->time, query + TILE - 1);
        memset(dq, 0, TILE * width * sizeof *dq);
        for (long key = first; key <= query; key += TILE) {
            multiply(TILE, width, q + query * width, width, 1, kt + key * width, TILE, p, TILE, 0, WHOLE);
            multiply(TILE, width, dy + query * width, width, 1, vt + key * width, TILE, dp, TILE, 0, WHOLE);
            if (key == query || key < last_start) hide(p, start, window, s->time, query, key);
            for (int i = 0; i < TILE; i++)
                for (int j = 0; j < TILE; j++) {
                    float share = exponential(p[i * TILE + j] - total[query + i]);
                    p[i * TILE + j] = share;
                    dp[i * TILE + j] = share * (dp[i * TILE + j] - delta[query + i]);
                }
            multiply(width, TILE, p, 1, TILE, dy + query * width, width, dv + key * width, width, 1, key == query ? UPPER : WHOLE);
            multiply(width, TILE, dp, 1, TILE, q + query * width, width, dk + key * width, width, 1, key == query ? UPPER : WHOLE);
            multiply(width, TILE, dp, TILE, 1, k + key * width, width, dq, width, 1, key == query ? LOWER : WHOLE);
        }
        for (long t = query; t < query + TILE && t < s->time; t++)
            prepare_backward(dq + (t - query) * width, q + t * width, s, t, s->scale, q_inverse[t], dqkv + t * s->stride);
    }
    for (long t = 0; t < s->time; t++) {
        number *to = dqkv + t * s->stride;
        prepare_backward(dk + t * width, k + t * width, s, t, 1, k_inverse[t], to + part);
        for (long c = 0; c < s->width; c++) to[2 * part + c] = narrow(dv[t * width + c]);
    }
}

/* dqkv (B, T, 3, H, K) from grad (B, T, H, K) by out, and what forward took and gave. */
int attention_backward(
    const number *qkv, const float *table, const int32_t *start, const number *out, const float *lse, const number *grad,
    number *dqkv, long batch, long time, long heads, long width, long window, float scale, long norm, long threads)
{
    Shape s = shape_of(time, heads, width, table, norm, scale);
    long floats = (8 * s.padded_time + TILE) * s.padded_width + 4 * s.padded_time + 2 * AREA;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *scratch = aligned_alloc(64, floats * sizeof *scratch);
        failed = scratch == NULL;
#pragma omp for
        for (long i = 0; i < batch * heads; i++) {
            long b = i / heads, h = i % heads, at = (b * time * heads + h) * width;
            if (scratch)
                backward_one(&s, qkv + b * time * s.stride + h * width, heads, start + b * time, window, out + at,
                             lse + i * time, grad + at, scratch, dqkv + b * time * s.stride + h * width);
        }
        free(scratch);
    }
    return failed;
}
