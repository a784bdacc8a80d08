/* Normalisation and activation of channels-last activations, each in as few passes over memory as
 * there can be. `normalisation.py` has the same with PyTorch's operations, and uses these instead where
 * `kernels.py` could compile them. Rows are positions, columns channels.
 *
 *   x, g, y, dx   (rows, channels) float or bfloat16
 *   w             (period,) coverage of row r at r % period, or NULL for ones
 *   others        (channels,) float
 */
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16   /* channels at a time: the accumulators stay in registers */
#define BLOCK 128 /* rows that are added in float before the sum goes to double */

static inline float from_float(float v) { return v; }
static inline float to_float(float v) { return v; }

typedef uint16_t bf16;
static inline float from_bf16(bf16 v) {
  uint32_t bits = (uint32_t)v << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}
static inline bf16 to_bf16(float v) {
  uint32_t bits;
  if (v != v) return 0x7fc0; /* rounding could turn other NaNs into zeros */
  memcpy(&bits, &v, sizeof bits);
  return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to the nearest, ties to even */
}

/* Adds into sums[0..1][c] what two per-element terms of a block of rows come to. */
#define SUM_BLOCK(N, FIRST, SECOND)                                    \
  for (ptrdiff_t c = c0; c + (N) <= channels; c += (N)) {              \
    float a[N] = {0}, b[N] = {0};                                      \
    ptrdiff_t place = start % period;                                  \
    for (ptrdiff_t r = start; r < stop; r++) {                         \
      const float weight = w ? w[place] : 1.0f;                        \
      place = place + 1 == period ? 0 : place + 1;                     \
      (void)weight;                                                    \
      for (int i = 0; i < (N); i++) {                                  \
        const ptrdiff_t j = c + i, at = r * channels + j;              \
        FIRST;                                                         \
        a[i] += first;                                                 \
        b[i] += SECOND;                                                \
      }                                                                \
    }                                                                  \
    for (int i = 0; i < (N); i++) mine[c + i] += a[i], mine[channels + c + i] += b[i]; \
    c0 = c + (N);                                                      \
  }

/* Runs SUM_BLOCK over all rows in parallel; sums (2, channels) double. 1 if memory is short.
 * Each thread adds up its own rows, always the same ones, and the threads' sums are added in the
 * order of their numbers: the result does not depend on which thread is done first. */
#define SUM_ROWS(FIRST, SECOND)                                              \
  const int threads = omp_get_max_threads();                                 \
  double *all = calloc((size_t)threads * 2 * channels, sizeof *all);         \
  if (!all) return 1;                                                        \
  _Pragma("omp parallel num_threads(threads)")                               \
  {                                                                          \
    double *mine = all + (ptrdiff_t)omp_get_thread_num() * 2 * channels;     \
    _Pragma("omp for schedule(static)")                                      \
    for (ptrdiff_t block = 0; block < (rows + BLOCK - 1) / BLOCK; block++) { \
      const ptrdiff_t start = block * BLOCK;                                 \
      const ptrdiff_t stop = start + BLOCK < rows ? start + BLOCK : rows;    \
      ptrdiff_t c0 = 0;                                                      \
      SUM_BLOCK(LANES, FIRST, SECOND)                                        \
      SUM_BLOCK(1, FIRST, SECOND)                                            \
    }                                                                        \
  }                                                                          \
  memset(sums, 0, 2 * channels * sizeof *sums);                              \
  for (int thread = 0; thread < threads; thread++)                           \
    for (ptrdiff_t c = 0; c < 2 * channels; c++)                             \
      sums[c] += all[(ptrdiff_t)thread * 2 * channels + c];                  \
  free(all);                                                                 \
  return 0;

#define KERNELS(T)                                                                              \
  /* Sums of w (x - x[0]) and w (x - x[0])^2: about the first row, so that a large mean costs no digits. */ \
  int moments_##T(const T *x, const float *w, ptrdiff_t rows, ptrdiff_t period,                 \
                  ptrdiff_t channels, double *sums) {                                           \
    SUM_ROWS(const float d = from_##T(x[at]) - from_##T(x[j]); const float first = weight * d,  \
             first * d)                                                                         \
  }                                                                                             \
  /* y = LeakyReLU(scale x + shift) */                                                          \
  int activate_##T(const T *x, T *restrict y, const float *restrict scale, const float *restrict shift, float slope, \
                    ptrdiff_t rows, ptrdiff_t channels) {                                       \
    _Pragma("omp parallel for schedule(static)") for (ptrdiff_t r = 0; r < rows; r++)           \
      for (ptrdiff_t j = 0; j < channels; j++) {                                                \
        const float z = scale[j] * from_##T(x[r * channels + j]) + shift[j];                    \
        y[r * channels + j] = to_##T(z > 0 ? z : slope * z);                                    \
      }                                                                                         \
    return 0;                                                                                   \
  }                                                                                             \
  /* With h the gradient before the activation: sums of h and of h (x - mean). */               \
  int gradient_sums_##T(const T *g, const T *x, const float *scale, const float *shift,         \
                        const float *mean, float slope, ptrdiff_t rows, ptrdiff_t channels,     \
                        double *sums) {                                                         \
    const float *w = NULL;                                                                      \
    const ptrdiff_t period = 1;                                                                 \
    SUM_ROWS(const float v = from_##T(x[at]); const float h = from_##T(g[at]);                  \
             const float first = scale[j] * v + shift[j] > 0 ? h : slope * h,                   \
             first * (v - mean[j]))                                                             \
  }                                                                                             \
  /* dx = scale h + w (p + q x) */                                                              \
  int gradient_##T(const T *g, const T *x, T *restrict dx, const float *w,                       \
                    const float *restrict scale, const float *restrict shift,                   \
                    const float *restrict p, const float *restrict q, float slope,              \
                    ptrdiff_t rows, ptrdiff_t period, ptrdiff_t channels) {                     \
    _Pragma("omp parallel for schedule(static)")                                                \
    for (ptrdiff_t start = 0; start < rows; start += BLOCK) {                                   \
      const ptrdiff_t stop = start + BLOCK < rows ? start + BLOCK : rows;                       \
      ptrdiff_t place = start % period;                                                         \
      for (ptrdiff_t r = start; r < stop; r++) {                                                \
        const float weight = w ? w[place] : 1.0f;                                               \
        place = place + 1 == period ? 0 : place + 1;                                            \
        for (ptrdiff_t j = 0; j < channels; j++) {                                              \
          const ptrdiff_t at = r * channels + j;                                                \
          const float v = from_##T(x[at]), h = from_##T(g[at]);                                 \
          const float on = scale[j] * v + shift[j] > 0 ? h : slope * h;                         \
          dx[at] = to_##T(scale[j] * on + weight * (p[j] + q[j] * v));                          \
        }                                                                                       \
      }                                                                                         \
    }                                                                                           \
    return 0;                                                                                   \
  }

KERNELS(float)
KERNELS(bf16)
