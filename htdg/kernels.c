/* Normalisation, activation and softmax of channels-last activations, in as few passes over memory as
 * there can be. `normalisation.py` has the same with PyTorch's operations, and uses these instead where
 * `kernels.py` could compile them. Rows are positions, columns channels.
 *
 *   x, g, y, dx   (rows, channels) float or bfloat16
 *   w             (period,) coverage of row r at r % period, or NULL for ones
 *   others        (channels,) float
 */
#include <math.h>
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

#define WIDEST 1024 /* classes */

/* exp(x) for x <= 0, to 2e-7 of it; below 1e-37 about that. exp(x) = 2^n exp(r), |r| <= ln(2) / 2. */
static inline float exp_of_negative(float x) {
  x = x < -85.0f ? -85.0f : x;
  const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it leaves no digits behind the point */
  const float n = (x * 1.44269504f + to_integer) - to_integer;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float series = 1 + r * (1 + r * (1 / 2.0f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r / 720)))));
  int32_t bits;
  memcpy(&bits, &series, sizeof bits);
  bits += (int32_t)n * (1 << 23);
  float found;
  memcpy(&found, &bits, sizeof found);
  return found;
}

#define SOFTMAX(T)                                                                              \
  /* log_sums = log(sum of exp(x)) of each row, and unless p is NULL p = over * w * exp(x - that). \
   * 2 if there are more classes than WIDEST. */                                                \
  int softmax_##T(const T *x, const float *w, ptrdiff_t rows, ptrdiff_t period, ptrdiff_t classes, \
                  float over, float *log_sums, T *p) {                                          \
    if (classes > WIDEST) return 2;                                                             \
    const ptrdiff_t whole = (classes + LANES - 1) / LANES * LANES;                              \
    _Pragma("omp parallel for schedule(static)")                                                \
    for (ptrdiff_t r = 0; r < rows; r++) {                                                      \
      float v[WIDEST + LANES], most[LANES], sum[LANES] = {0};                                   \
      for (ptrdiff_t j = 0; j < classes; j++) v[j] = from_##T(x[r * classes + j]);              \
      for (ptrdiff_t j = classes; j < whole; j++) v[j] = -INFINITY;                             \
      for (int i = 0; i < LANES; i++) most[i] = v[i];                                           \
      for (ptrdiff_t j = LANES; j < whole; j += LANES)                                          \
        for (int i = 0; i < LANES; i++) most[i] = v[j + i] > most[i] ? v[j + i] : most[i];      \
      for (int half = LANES / 2; half; half /= 2)                                               \
        for (int i = 0; i < half; i++) most[i] = most[i + half] > most[i] ? most[i + half] : most[i]; \
      for (ptrdiff_t j = 0; j < whole; j += LANES)                                              \
        for (int i = 0; i < LANES; i++) {                                                       \
          v[j + i] = exp_of_negative(v[j + i] - most[0]);                                       \
          sum[i] += v[j + i];                                                                   \
        }                                                                                       \
      for (int half = LANES / 2; half; half /= 2)                                               \
        for (int i = 0; i < half; i++) sum[i] += sum[i + half];                                 \
      log_sums[r] = most[0] + logf(sum[0]);                                                     \
      if (!p) continue;                                                                         \
      const float share = over * (w ? w[r % period] : 1.0f) / sum[0];                           \
      for (ptrdiff_t j = 0; j < classes; j++) p[r * classes + j] = to_##T(share * v[j]);        \
    }                                                                                           \
    return 0;                                                                                   \
  }

KERNELS(float)
KERNELS(bf16)
SOFTMAX(float)
SOFTMAX(bf16)
