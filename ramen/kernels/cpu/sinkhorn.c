/* Rows and columns normalised in turn: one pass over the matrix for a row step and the column step behind it. See sinkhorn.py. */

#include "kernel.h"

enum { ROWS = 32 };  /* of a column sum are added up by themselves: rounding grows with the number of such sums, not of rows */

/* sum over n of (s x)^2 c */
static float weighted(const float *x, const float *c, float s, long n)
{
    union { vector all; float lane[LANES]; } sum = {{0}};
    float rest = 0;
    long j = 0;
    for (; j + LANES <= n; j += LANES) {
        vector z = *(const vector *)(x + j) * s;
        sum.all += z * z * *(const vector *)(c + j);
    }
    for (; j < n; j++) rest += s * x[j] * (s * x[j]) * c[j];
    for (int l = 0; l < LANES; l++) rest += sum.lane[l];
    return rest;
}

/* The largest size of n numbers, by their bits, whose order is that of sizes; NaN if there is one. */
static float largest(const float *x, long n)
{
    typedef uint32_t __attribute__((may_alias)) word;
    union { uint32_t bits; float value; } most = {0};
    for (long i = 0; i < n; i++) {
        uint32_t size = ((const word *)x)[i] & 0x7fffffff;
        most.bits = size > most.bits ? size : most.bits;
    }
    return most.value;
}

/* rows (m) and columns (n): squared factors, of which the last one to be set holds; `part` (n) is scratch. */
static void factors(const float *x, long m, long n, float s, long rows_first, long axes, float floor, float *rows, float *columns, float *part)
{
    for (long i = 0; i < m; i++) rows[i] = 1;
    for (long j = 0; j < n; j++) columns[j] = 1;
    float *sums = part + n;
    for (long step = 0; step < axes; step++) {
        int by_rows = (step % 2 == 0) == rows_first, by_columns = !by_rows;
        if (by_rows && step + 1 < axes) {
            by_columns = 1;
            step++;
        }
        if (by_columns) memset(sums, 0, n * sizeof *sums);
        for (long top = 0; top < m; top += ROWS) {
            long bottom = top + ROWS < m ? top + ROWS : m;
            if (by_columns) memset(part, 0, n * sizeof *part);
            for (long i = top; i < bottom; i++) {
                const float *row = x + i * n;
                if (by_rows) rows[i] = 1 / (weighted(row, columns, s, n) + floor);
                if (by_columns) {
                    float r = rows[i];
                    for (long j = 0; j < n; j++) part[j] += r * (s * row[j] * (s * row[j]));
                }
            }
            if (by_columns) for (long j = 0; j < n; j++) sums[j] += part[j];
        }
        if (by_columns) for (long j = 0; j < n; j++) columns[j] = 1 / (sums[j] + floor);
    }
}

/* y = x with rows and columns divided by their L2 norms in turn, `axes` times in all, times `norm`; (matrices, m, n). */
int normalize_axes(const float *x, float *y, long matrices, long m, long n, long rows_first, long axes, float norm, float floor, long threads)
{
    int failed = 0;
    PARALLEL(matrices * m * n)
    for (long k = 0; k < matrices; k++) {
        const float *from = x + k * m * n;
        float *to = y + k * m * n, most = largest(from, m * n), s = 1 / (most > 1.17549435e-38f ? most : 1.17549435e-38f);
        float *rows = malloc((m + 3 * n) * sizeof *rows), *columns = rows + m;
        if (!rows) { failed = 1; continue; }
        factors(from, m, n, s, rows_first, axes, floor, rows, columns, columns + n);
        for (long j = 0; j < n; j++) columns[j] = sqrtf(columns[j]) * norm;
        for (long i = 0; i < m; i++) {
            float r = sqrtf(rows[i]);
            for (long j = 0; j < n; j++) to[i * n + j] = s * from[i * n + j] * r * columns[j];
        }
        free(rows);
    }
    return failed;
}
