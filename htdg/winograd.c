/* 3 x 3 convolution of channels-last images by Winograd's minimal filtering, F(2 x 2, 3 x 3): four
 * outputs that share their 4 x 4 inputs take 16 multiplications for each pair of channels, not 36
 * (Lavin and Gray, 2016, arXiv 1509.09308). With d the inputs, g the weights, y the outputs and (.)
 * the product of each element with its own,
 *
 *   forward   y  = A' [ (G g G') (.) (B' d B) ] A
 *   backward  dg = G' [ (A dy A') (.) (B' d B) ] G,   summed over the tiles of four outputs,
 *
 * and dd is a convolution again, of dy padded by 2 with the weights turned by 180 degrees. For each of
 * the 16 elements, the products of all channels of many tiles are a matrix product. Multiplications by
 * A, B are sums alone; by G halves: nothing is lost to rounding that direct summation would keep.
 *
 *   x, y   (images, height, width, channels) float or bfloat16
 *   v      (16, inputs, outputs) float, G g G', channels padded with zeros to whole blocks; for
 *          bfloat16 (16, inputs / 2, outputs, 2)
 *
 * Sums are always float; bfloat16 rounds what is multiplied. Each function that `half` is handed to
 * is inlined where that is a constant, so there is one for each type in the end.
 *
 * `winograd.py` calls these where `kernels.py` could compile them for a processor that has AVX2 or
 * AVX-512 (for bfloat16 its extension for that type); elsewhere PyTorch's convolutions are used.
 */
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
#else
#define LANES 0
#endif

/* Floats in a vector register that the functions below are made for; 0 if there are none of them. */
int winograd_lanes_float(void) { return LANES; }

/* The same, or 0 if there are none for bfloat16. */
int winograd_lanes_bf16(void) {
#if defined(__AVX512BF16__) && LANES == 16
  return LANES;
#else
  return 0;
#endif
}

#if LANES

#define ROWS 8              /* of a matrix product's result held in registers ... */
#define COLUMNS (2 * LANES) /* ... and its columns: 16 sums at a time, enough to fill the pipeline */
#define TILES 48            /* tiles at a time: what they need stays in the cache of a core */
#define SKEW 16             /* floats between elements' parts, so that they lie in different cache sets */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }

/* --- Arrays of either type -------------------------------------------------------------------- */

#if LANES == 16
INLINE __mmask16 first_lanes(ptrdiff_t n) { return n < LANES ? (__mmask16)((1u << n) - 1) : 0xffff; }
INLINE vec load_float(const float *p, ptrdiff_t n) {
  return n >= LANES ? load(p) : (vec)_mm512_maskz_loadu_ps(first_lanes(n), p);
}
INLINE void store_float(float *p, vec v, ptrdiff_t n) {
  if (n >= LANES) store(p, v);
  else _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)v);
}
#else
INLINE __m256i first_lanes(ptrdiff_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vec load_float(const float *p, ptrdiff_t n) {
  return n >= LANES ? load(p) : (vec)_mm256_maskload_ps(p, first_lanes(n));
}
INLINE void store_float(float *p, vec v, ptrdiff_t n) {
  if (n >= LANES) store(p, v);
  else _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
}
#endif

#if defined(__AVX512BF16__) && LANES == 16
#define HALF 1 /* whether there is bfloat16 */
INLINE vec load_half(const uint16_t *p, ptrdiff_t n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
INLINE void store_half(uint16_t *p, vec v, ptrdiff_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#else
#define HALF 0
INLINE vec load_half(const uint16_t *p, ptrdiff_t n) { return (void)p, (void)n, (vec){0}; }
INLINE void store_half(uint16_t *p, vec v, ptrdiff_t n) { (void)p, (void)v, (void)n; }
#endif

/* The first n lanes at an address, or all; the others are zero, or are left alone. */
INLINE vec fetch(const char *p, ptrdiff_t n, int half) {
  return half ? load_half((const uint16_t *)p, n) : load_float((const float *)p, n);
}
INLINE void put(char *p, vec v, ptrdiff_t n, int half) {
  if (half) store_half((uint16_t *)p, v, n);
  else store_float((float *)p, v, n);
}

INLINE ptrdiff_t size_of(int half) { return half ? 2 : 4; }

static ptrdiff_t padded(ptrdiff_t n) { return (n + COLUMNS - 1) / COLUMNS * COLUMNS; }

/* Memory of this thread that is kept from call to call, aligned to cache lines; NULL if there is none. */
static float *scratch(size_t floats) {
  static _Thread_local float *kept;
  static _Thread_local size_t size;
  if (floats > size) {
    free(kept);
    kept = aligned_alloc(64, (floats * sizeof *kept + 63) / 64 * 64);
    size = kept ? floats : 0;
  }
  return kept;
}

/* --- Tiles ------------------------------------------------------------------------------------ */

typedef struct {
  ptrdiff_t images, height, width, channels; /* of the array that is cut into tiles */
  ptrdiff_t rows, columns;                   /* tiles along an image's height and width */
} Grid;

/* Where the `side` x `side` places of tile t begin, `outside` for those beyond the image. */
INLINE void places_of(const Grid *g, const char *array, ptrdiff_t t, int side, ptrdiff_t pad,
                      const char *outside, const char **at, int half) {
  const ptrdiff_t image = t / (g->rows * g->columns), within = t % (g->rows * g->columns);
  const ptrdiff_t top = within / g->columns * 2 - pad, left = within % g->columns * 2 - pad;
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) {
      const ptrdiff_t y = top + i, x = left + j;
      const int inside = y >= 0 && y < g->height && x >= 0 && x < g->width;
      const ptrdiff_t place = (image * g->height + y) * g->width + x;
      at[i * side + j] = inside ? array + place * g->channels * size_of(half) : outside;
    }
}

/* B' d B of one tile of 4 x 4 inputs, for all channels: at u + element * step + channel. `to_half` is
 * the type of u, whose channels from `channels` to `wide` are zeros. */
INLINE void transform_inputs(const char *const *at, ptrdiff_t channels, ptrdiff_t wide, char *u,
                             ptrdiff_t step, int half, int to_half) {
  const ptrdiff_t size = size_of(to_half);
  for (ptrdiff_t c = 0; c < wide; c += LANES) {
    const ptrdiff_t left = channels - c, from = c * size_of(half);
    char *row = u + c * size;
    if (left <= 0) {
      for (int i = 0; i < 16; i++) put(row + i * step * size, (vec){0}, LANES, to_half);
      continue;
    }
    vec d[4][4];
    for (int j = 0; j < 4; j++) {
      const vec a = fetch(at[j] + from, left, half), b = fetch(at[4 + j] + from, left, half);
      const vec e = fetch(at[8 + j] + from, left, half), f = fetch(at[12 + j] + from, left, half);
      d[0][j] = a - e, d[1][j] = b + e, d[2][j] = e - b, d[3][j] = b - f;
    }
    for (int i = 0; i < 4; i++, row += 4 * step * size) {
      put(row, d[i][0] - d[i][2], LANES, to_half);
      put(row + step * size, d[i][1] + d[i][2], LANES, to_half);
      put(row + 2 * step * size, d[i][2] - d[i][1], LANES, to_half);
      put(row + 3 * step * size, d[i][1] - d[i][3], LANES, to_half);
    }
  }
}

/* A dy A' of one tile of 2 x 2 gradients, likewise, in float. */
INLINE void transform_gradient(const char *const *at, ptrdiff_t channels, ptrdiff_t wide, float *u,
                               ptrdiff_t step, int half) {
  for (ptrdiff_t c = 0; c < wide; c += LANES) {
    const ptrdiff_t left = channels - c, from = c * size_of(half);
    vec d[4][2];
    for (int j = 0; j < 2; j++) {
      const vec a = left > 0 ? fetch(at[j] + from, left, half) : (vec){0};
      const vec b = left > 0 ? fetch(at[2 + j] + from, left, half) : (vec){0};
      d[0][j] = a, d[1][j] = a + b, d[2][j] = a - b, d[3][j] = -b;
    }
    for (int i = 0; i < 4; i++) {
      float *row = u + i * 4 * step + c;
      store(row, d[i][0]);
      store(row + step, d[i][0] + d[i][1]);
      store(row + 2 * step, d[i][0] - d[i][1]);
      store(row + 3 * step, -d[i][1]);
    }
  }
}

INLINE vec activated(vec v, float slope) { /* slope is at most 1, so the larger is the right one */
#if LANES == 16
  return (vec)_mm512_max_ps((__m512)(slope * v), (__m512)v);
#else
  return (vec)_mm256_max_ps((__m256)(slope * v), (__m256)v);
#endif
}

/* y = LeakyReLU(A' m A + bias) of one tile, `slope` 1 for none; places beyond the outputs are NULL. */
INLINE void transform_outputs(const float *m, ptrdiff_t step, const float *bias, float slope,
                              ptrdiff_t channels, char *const *at, int half) {
  for (ptrdiff_t c = 0; c < channels; c += LANES) {
    const ptrdiff_t n = channels - c, from = c * size_of(half);
    vec s[2][4];
    for (int j = 0; j < 4; j++) {
      const float *column = m + j * step + c;
      const vec b = load(column + 4 * step), e = load(column + 8 * step);
      s[0][j] = load(column) + b + e;
      s[1][j] = b - e - load(column + 12 * step);
    }
    const vec add = bias ? load_float(bias + c, n) : (vec){0};
    for (int i = 0; i < 2; i++) {
      const vec left = activated(s[i][0] + s[i][1] + s[i][2] + add, slope);
      const vec right = activated(s[i][1] - s[i][2] - s[i][3] + add, slope);
      if (at[2 * i]) put(at[2 * i] + from, left, n, half);
      if (at[2 * i + 1]) put(at[2 * i + 1] + from, right, n, half);
    }
  }
}

/* --- Matrix products -------------------------------------------------------------------------- */

/* c (ROWS, COLUMNS) = or += the sum over k of a[k * a_k + r * a_r] b[k * ld + column]. In bfloat16 an
 * entry of a and b is a pair of neighbours in k, and both products are added. */
INLINE void multiply(const void *a, ptrdiff_t a_r, ptrdiff_t a_k, const void *b, float *c, ptrdiff_t ld,
                     ptrdiff_t count, int add, int half) {
  (void)half;
  vec sum[ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
    sum[r][0] = add ? load(c + r * ld) : (vec){0};
    sum[r][1] = add ? load(c + r * ld + LANES) : (vec){0};
  }
  for (ptrdiff_t k = 0; k < count; k++) {
    const vec left = load((const float *)b + k * ld), right = load((const float *)b + k * ld + LANES);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
#if HALF
      if (half) {
        const __m512bh pair = (__m512bh)_mm512_set1_epi32(((const int *)a)[k * a_k + r * a_r]);
        sum[r][0] = (vec)_mm512_dpbf16_ps((__m512)sum[r][0], pair, (__m512bh)left);
        sum[r][1] = (vec)_mm512_dpbf16_ps((__m512)sum[r][1], pair, (__m512bh)right);
        continue;
      }
#endif
      const float v = ((const float *)a)[k * a_k + r * a_r];
      sum[r][0] += v * left;
      sum[r][1] += v * right;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
    store(c + r * ld, sum[r][0]);
    store(c + r * ld + LANES, sum[r][1]);
  }
}

/* Two rows of floats a and b as one row of pairs (a, b) in bfloat16. */
static void pair_up(const float *a, const float *b, ptrdiff_t count, float *pairs) {
#if HALF
  for (ptrdiff_t c = 0; c < count; c += LANES) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(a + c)));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(b + c)));
    store(pairs + c, (vec)_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
#else
  (void)a, (void)b, (void)count, (void)pairs;
#endif
}

/* --- The three convolutions ------------------------------------------------------------------- */

/* v = G g G', from weights g[output * by_output + input * by_input + y * by_y + x * by_x], turned by
 * 180 degrees if `turned`. 1 if memory is short. */
INLINE int weights(const float *g, ptrdiff_t by_output, ptrdiff_t by_input, ptrdiff_t by_y,
                   ptrdiff_t by_x, ptrdiff_t outputs, ptrdiff_t inputs, ptrdiff_t turned, float *v,
                   int half) {
  const ptrdiff_t in = padded(inputs), out = padded(outputs);
  float *taps = scratch((9 + 2 * 16) * out), *found = taps + 9 * out; /* found: of two inputs */
  if (!taps) return 1;
  memset(taps, 0, 9 * out * sizeof *taps);
  for (ptrdiff_t i = 0; i < in; i++) {
    for (int tap = 0; tap < 9; tap++) {
      const int from = turned ? 8 - tap : tap;
      const float *w = g + i * by_input + from / 3 * by_y + from % 3 * by_x;
      for (ptrdiff_t o = 0; o < outputs; o++) taps[tap * out + o] = i < inputs ? w[o * by_output] : 0;
    }
    for (ptrdiff_t o = 0; o < out; o += LANES) {
      vec rows[4][3];
      for (int x = 0; x < 3; x++) {
        const float *w = taps + x * out + o;
        const vec a = load(w), b = load(w + 3 * out), c = load(w + 6 * out);
        rows[0][x] = a, rows[3][x] = c;
        rows[1][x] = 0.5f * (a + c + b), rows[2][x] = 0.5f * (a + c - b);
      }
      for (int y = 0; y < 4; y++) {
        const vec a = rows[y][0], b = rows[y][1], c = rows[y][2];
        float *to = found + (i % 2 * 16 + y * 4) * out + o;
        store(to, a), store(to + 3 * out, c);
        store(to + out, 0.5f * (a + c + b)), store(to + 2 * out, 0.5f * (a + c - b));
      }
    }
    for (int e = 0; e < 16; e++) {
      const float *of_i = found + (i % 2 * 16 + e) * out;
      if (!half) memcpy(v + (e * in + i) * out, of_i, out * sizeof *v);
      else if (i % 2) pair_up(of_i - 16 * out, of_i, out, v + (e * in / 2 + i / 2) * out);
    }
  }
  return 0;
}

/* y = LeakyReLU of the convolution of x, with `pad` zeros around it. 1 if memory is short. */
INLINE int forward(const char *x, const char *v, const float *bias, float slope, char *y,
                   ptrdiff_t images, ptrdiff_t height, ptrdiff_t width, ptrdiff_t inputs,
                   ptrdiff_t outputs, ptrdiff_t pad, int half) {
  const ptrdiff_t high = height + 2 * pad - 2, broad = width + 2 * pad - 2;
  const Grid from = {images, height, width, inputs, (high + 1) / 2, (broad + 1) / 2};
  const Grid to = {images, high, broad, outputs, from.rows, from.columns};
  const ptrdiff_t tiles = images * from.rows * from.columns;
  const ptrdiff_t in = padded(inputs), out = padded(outputs), size = size_of(half);
  const ptrdiff_t row = half ? in / 2 : in, used = half ? (inputs + 1) / 2 : inputs; /* entries of a */
  const ptrdiff_t u_step = TILES * in + SKEW, m_step = TILES * out + SKEW;
  int failed = 0;
#pragma omp parallel reduction(| : failed)
  {
    float *zeros = scratch(in + 16 * (u_step + m_step));
    char *u = (char *)(zeros + in);
    float *m = zeros + in + 16 * u_step;
    if (zeros) memset(zeros, 0, in * sizeof *zeros);
    else failed = 1;
#pragma omp for schedule(static)
    for (ptrdiff_t start = 0; start < tiles; start += TILES) {
      if (!zeros) continue;
      const ptrdiff_t count = tiles - start < TILES ? tiles - start : TILES;
      const char *at[16];
      for (ptrdiff_t t = 0; t < count; t++) {
        places_of(&from, x, start + t, 4, pad, (const char *)zeros, at, half);
        transform_inputs(at, inputs, in, u + t * in * size, u_step, half, half);
      }
      for (int e = 0; e < 16; e++)
        for (ptrdiff_t o = 0; o < out; o += COLUMNS)
          for (ptrdiff_t t = 0; t < count; t += ROWS)
            multiply(u + (e * u_step + t * in) * size, row, 1, (const float *)v + e * row * out + o,
                     m + e * m_step + t * out + o, out, used, 0, half);
      for (ptrdiff_t t = 0; t < count; t++) {
        places_of(&to, y, start + t, 2, 0, NULL, at, half);
        transform_outputs(m + t * out, m_step, bias, slope, outputs, (char *const *)at, half);
      }
    }
  }
  return failed;
}

/* dg (3, 3, inputs, outputs) from the sums over all tiles of (A dy A') (.) (B' d B). */
static void fold_gradient(const float *sums, ptrdiff_t inputs, ptrdiff_t outputs, float *dg) {
  const ptrdiff_t out = padded(outputs), step = padded(inputs) * out, across = inputs * outputs;
  for (ptrdiff_t i = 0; i < inputs; i++)
    for (ptrdiff_t o = 0; o < outputs; o++) {
      const float *m = sums + i * out + o;
      float *w = dg + i * outputs + o, rows[3][4];
      for (int x = 0; x < 4; x++, m += step) {
        const float half = 0.5f * (m[4 * step] + m[8 * step]);
        rows[0][x] = m[0] + half;
        rows[1][x] = 0.5f * (m[4 * step] - m[8 * step]);
        rows[2][x] = half + m[12 * step];
      }
      for (int y = 0; y < 3; y++, w += 3 * across) {
        const float half = 0.5f * (rows[y][1] + rows[y][2]);
        w[0] = rows[y][0] + half;
        w[across] = 0.5f * (rows[y][1] - rows[y][2]);
        w[2 * across] = half + rows[y][3];
      }
    }
}

/* dg (3, 3, inputs, outputs) and d_bias (outputs), float, from x and dy. 1 if memory is short. */
INLINE int backward_weights(const char *x, const char *dy, float *dg, float *d_bias, ptrdiff_t images,
                            ptrdiff_t height, ptrdiff_t width, ptrdiff_t inputs, ptrdiff_t outputs,
                            int half) {
  const Grid from = {images, height, width, inputs, (height - 1) / 2, (width - 1) / 2};
  const Grid to = {images, height - 2, width - 2, outputs, from.rows, from.columns};
  const ptrdiff_t tiles = images * from.rows * from.columns;
  const ptrdiff_t in = padded(inputs), out = padded(outputs), size = (16 * in + 1) * out;
  const ptrdiff_t wide = in > out ? in : out;
  const ptrdiff_t rows = half ? TILES / 2 : TILES; /* of u and h, a pair of tiles each in bfloat16 */
  const ptrdiff_t u_step = rows * in + SKEW, h_step = rows * out + SKEW;
  const ptrdiff_t two = 2 * (in + out) + 2 * SKEW; /* a pair of tiles in float */
  const int threads = omp_get_max_threads();
  float *sums = calloc((size_t)threads * size, sizeof *sums); /* each thread's, then its d_bias */
  int failed = !sums;
  if (failed) return 1;
#pragma omp parallel num_threads(threads) reduction(| : failed)
  {
    float *zeros = scratch(wide + 16 * (u_step + h_step + two));
    float *u = zeros + wide, *h = u + 16 * u_step;
    float *two_u = h + 16 * h_step, *two_h = two_u + 16 * (2 * in + SKEW);
    float *mine = sums + omp_get_thread_num() * size;
    if (zeros) memset(zeros, 0, wide * sizeof *zeros);
    else failed = 1;
#pragma omp for schedule(static)
    for (ptrdiff_t start = 0; start < tiles; start += TILES) {
      if (!zeros) continue;
      const ptrdiff_t count = tiles - start < TILES ? tiles - start : TILES;
      const char *at[16], *none = (const char *)zeros;
      for (ptrdiff_t t = 0; t < count; t++) {
        /* In bfloat16 first into one half of the pair. */
        const ptrdiff_t at_u = half ? 2 * in + SKEW : u_step, at_h = half ? 2 * out + SKEW : h_step;
        float *to_u = half ? two_u + t % 2 * in : u + t * in;
        float *to_h = half ? two_h + t % 2 * out : h + t * out;
        places_of(&from, x, start + t, 4, 0, none, at, half);
        transform_inputs(at, inputs, in, (char *)to_u, at_u, half, 0);
        places_of(&to, dy, start + t, 2, 0, none, at, half);
        transform_gradient(at, outputs, out, to_h, at_h, half);
        for (ptrdiff_t o = 0; o < out; o++) /* element (1, 1) of A dy A' is the sum of the four */
          mine[16 * in * out + o] += to_h[5 * at_h + o];
        if (!half || (t % 2 == 0 && t + 1 < count)) continue;
        for (int e = 0; e < 16; e++) {
          const float *a = two_u + e * (2 * in + SKEW), *b = two_h + e * (2 * out + SKEW);
          const int alone = t % 2 == 0; /* the last one: its partner is zeros */
          pair_up(a, alone ? zeros : a + in, in, u + e * u_step + t / 2 * in);
          pair_up(b, alone ? zeros : b + out, out, h + e * h_step + t / 2 * out);
        }
      }
      const ptrdiff_t summed = half ? (count + 1) / 2 : count;
      for (int e = 0; e < 16; e++)
        for (ptrdiff_t o = 0; o < out; o += COLUMNS)
          for (ptrdiff_t i = 0; i < inputs; i += ROWS)
            multiply(u + e * u_step + i, 1, in, h + e * h_step + o,
                     mine + (e * in + i) * out + o, out, summed, 1, half);
    }
  }
  for (int thread = 1; thread < threads; thread++)
    for (ptrdiff_t j = 0; j < size; j++) sums[j] += sums[thread * size + j];
  fold_gradient(sums, inputs, outputs, dg);
  memcpy(d_bias, sums + 16 * in * out, outputs * sizeof *d_bias);
  free(sums);
  return failed;
}

#define CONVOLUTIONS(NAME, HALF_TYPE)                                                              \
  int winograd_weights_##NAME(const float *g, ptrdiff_t by_output, ptrdiff_t by_input,             \
                              ptrdiff_t by_y, ptrdiff_t by_x, ptrdiff_t outputs, ptrdiff_t inputs, \
                              ptrdiff_t turned, float *v) {                                        \
    return weights(g, by_output, by_input, by_y, by_x, outputs, inputs, turned, v, HALF_TYPE);     \
  }                                                                                                \
  int winograd_forward_##NAME(const char *x, const char *v, const float *bias, float slope,        \
                              char *y, ptrdiff_t images, ptrdiff_t height, ptrdiff_t width,        \
                              ptrdiff_t inputs, ptrdiff_t outputs, ptrdiff_t pad) {                \
    return forward(x, v, bias, slope, y, images, height, width, inputs, outputs, pad, HALF_TYPE);  \
  }                                                                                                \
  int winograd_backward_weights_##NAME(const char *x, const char *dy, float *dg, float *d_bias,    \
                                       ptrdiff_t images, ptrdiff_t height, ptrdiff_t width,        \
                                       ptrdiff_t inputs, ptrdiff_t outputs) {                      \
    return backward_weights(x, dy, dg, d_bias, images, height, width, inputs, outputs, HALF_TYPE); \
  }

CONVOLUTIONS(float, 0)
#if HALF
CONVOLUTIONS(bf16, 1)
#endif

#endif
