/*
 * The gradient step of closed_form.py in C. Compiled once for each level of the processor, see hatch_build.py.
 *
 * The numbers depend neither on the threads nor on how many steps are taken in one call.
 *
 * All matrices are row-major. Those of a minibatch have rows of `stride` numbers, a multiple of a vector's length: what
 * lies beyond a row's numbers is read along with them, and never used.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#else /* AVX2 */
#define LANES 8
#define ROWS 6
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef int64_t integer;

enum activation { IDENTITY, RELU, TANH, ELU, GELU, GELU_TANH, SILU, LEAKY_RELU };
enum { ONLINE, TARGET };

struct layer {
  integer n_in, n_out, stride, activation;
  double parameter;                /* ELU's alpha, LeakyReLU's slope */
  float *weight[2], *bias[2];      /* [n_out, n_in], [n_out] */
  float *weight_grad, *bias_grad;
  float *transposed;               /* [n_in, stride]: memory for a weight transposed */
  float *kept, *output, *delta;    /* [batch, stride]: what the derivative is computed from, f(z), dL / df then dL / dz */
  /* LayerNorm between W x + b and the activation, where there are weights for it */
  double norm_eps;
  float *norm_weight[2], *norm_bias[2]; /* [n_out] */
  float *norm_weight_grad, *norm_bias_grad;
  float *normalized, *scales; /* [batch, stride], [batch]: before weight and bias; 1 / standard deviation of each row */
  double penalty;
  float *pre_activations; /* [batch, stride], or null: z, whose gradient gets penalty z */
};

struct network {
  integer n_layers;
  struct layer *layers;
};

struct adam { /* of all networks that one optimizer trains */
  integer n_params, n_step_counts;
  float *params, *targets, *grads, *means, *squares, *step_counts;
  double learning_rate, beta1, beta2, eps, weight_decay;
  integer decoupled; /* weight decay, as in AdamW */
};

struct update {
  struct network actor, *critics;
  struct adam actor_adam, critic_adam;
  integer n_critics, batch, n_observations, n_actions, stride; /* of a row of inputs */
  float *inputs, *next_inputs;                      /* [batch, stride]: (s, a) and (s', mu'(s')) */
  float *rewards, *bootstrap;                       /* [batch]: r and then y; g (1 - d) */
  float *td_errors;                                 /* [batch]: |Q - y|, averaged over the critics */
  float *losses;                                    /* [2]: of actor and critic, summed */
  double tau, huber_delta, max_grad_norm;           /* the last two may be infinite */
};

/* --- Products of matrices --- */

INLINE vec load(const float *from) { return *(const unaligned_vec *)from; }
INLINE void store(float *to, vec value) { *(unaligned_vec *)to = value; }

/* A tile of c = a b + bias that fits into the registers: `rows` times n numbers, in `vecs` vectors */
INLINE void tile(const int rows, const int vecs, int n, integer k, const float *a, integer a_row, integer a_column,
                 const float *b, integer b_row, const float *bias, float *c, integer c_row)
{
  vec sums[ROWS][2];
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vecs; j++) sums[i][j] = bias ? load(bias + j * LANES) : (vec){0};
  for (integer l = 0; l < k; l++) {
    vec row[2];
    for (int j = 0; j < vecs; j++) row[j] = load(b + l * b_row + j * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < vecs; j++) sums[i][j] += a[i * a_row + l * a_column] * row[j];
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vecs; j++) {
      float *to = c + i * c_row + j * LANES;
      int rest = n - j * LANES;
      if (rest >= LANES) store(to, sums[i][j]);
      else
        for (int q = 0; q < rest; q++) to[q] = sums[i][j][q];
    }
}

/* At most two vectors of columns of c = a b + bias */
static void columns_of_product(integer m, int n, integer k, const float *a, integer a_row, integer a_column,
                               const float *b, integer b_row, const float *bias, float *c, integer c_row)
{
  for (integer i = 0; i < m; i += ROWS) {
#define TILE(rows, vecs) tile(rows, vecs, n, k, a + i * a_row, a_row, a_column, b, b_row, bias, c + i * c_row, c_row)
#define TILES(rows)            \
  case rows:                   \
    if (n > LANES) TILE(rows, 2); \
    else TILE(rows, 1);        \
    break
    switch (m - i < ROWS ? m - i : ROWS) {
      TILES(1); TILES(2); TILES(3); TILES(4); TILES(5); TILES(6);
#if ROWS == 8
      TILES(7); TILES(8);
#endif
    }
  }
}

static _Thread_local int n_threads = 1; /* of a large product; the numbers do not depend on it */
#define LARGE 1000000                   /* multiplications that are worth waking up the other threads */

/* c[m, n] = a[m, k] b[k, n] + bias[n]. A number of a is at i a_row + l a_column, so that a may be a transposed matrix */
static void product(integer m, integer n, integer k, const float *a, integer a_row, integer a_column, const float *b,
                    integer b_row, const float *bias, float *c, integer c_row)
{
#define COLUMNS                                                                                                     \
  columns_of_product(m, n - j < 2 * LANES ? n - j : 2 * LANES, k, a, a_row, a_column, b + j, b_row,                 \
                     bias ? bias + j : 0, c + j, c_row)
  if (n_threads > 1 && m * n * k > LARGE) {
#pragma omp parallel for num_threads(n_threads)
    for (integer j = 0; j < n; j += 2 * LANES) COLUMNS;
  } else
    for (integer j = 0; j < n; j += 2 * LANES) COLUMNS;
}

static float dot(integer n, const float *a, const float *b)
{
  vec sums = {0};
  float sum = 0;
  integer i = 0;
  for (; i + LANES <= n; i += LANES) sums += load(a + i) * load(b + i);
  for (; i < n; i++) sum += a[i] * b[i];
  for (int q = 0; q < LANES; q++) sum += sums[q];
  return sum;
}

static float sum(integer n, const float *a)
{
  vec sums = {0};
  float sum = 0;
  integer i = 0;
  for (; i + LANES <= n; i += LANES) sums += load(a + i);
  for (; i < n; i++) sum += a[i];
  for (int q = 0; q < LANES; q++) sum += sums[q];
  return sum;
}

/* Numbers of a, or of b from LANES on */
#ifdef __clang__
INLINE vec choose(vec a, vec b, integers from)
{
  vec chosen;
  for (int q = 0; q < LANES; q++) chosen[q] = from[q] < LANES ? a[from[q]] : b[from[q] - LANES];
  return chosen;
}
#else
#define choose __builtin_shuffle
#endif

/* Transpose a square of vectors: exchange halves, then quarters of each half, down to single numbers */
INLINE void transpose_square(vec *rows)
{
#pragma GCC unroll 4
  for (int half = LANES / 2; half; half /= 2) {
    integers first, second; /* numbers of row i and of row i + half that go to either */
    for (int q = 0; q < LANES; q++) {
      first[q] = q & half ? q - half + LANES : q;
      second[q] = q & half ? q + LANES : q + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
      if (!(i & half)) {
        vec a = rows[i], b = rows[i + half];
        rows[i] = choose(a, b, first), rows[i + half] = choose(a, b, second);
      }
  }
}

static void transpose(integer rows, integer columns, const float *from, float *to, integer to_row)
{
  integer i = 0, j = 0;
  for (; i + LANES <= rows; i += LANES)
    for (j = 0; j + LANES <= columns; j += LANES) {
      vec square[LANES];
#pragma GCC unroll 16
      for (int q = 0; q < LANES; q++) square[q] = load(from + (i + q) * columns + j);
      transpose_square(square);
#pragma GCC unroll 16
      for (int q = 0; q < LANES; q++) store(to + (j + q) * to_row + i, square[q]);
    }
  integer whole_rows = i, whole_columns = i ? j : 0; /* the rest, at the right and at the bottom */
  for (i = 0; i < rows; i++)
    for (j = i < whole_rows ? whole_columns : 0; j < columns; j++) to[j * to_row + i] = from[i * columns + j];
}

/* --- Activations. Loops over numbers, which the compiler turns into loops over vectors --- */

/* e^x within 2 units in the last place: 2^n e^r with |r| <= ln(2) / 2, and a polynomial for e^r (Cephes' expf) */
INLINE float exponential(float x)
{
  x = x > 88.37f ? 88.37f : x < -87.33f ? -87.33f : x; /* NaN stays NaN */
  float n = __builtin_rintf(x * 1.44269504f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
             1.6666665459e-1f) * r + 5.0000001201e-1f;
  union { int32_t i; float f; } power = {.i = ((int32_t)(n == n ? n : 0) + 127) << 23};
  return (p * r * r + r + 1) * power.f;
}

/* A polynomial near 0, where the other formula loses digits (Cephes' tanhf) */
INLINE float tangent(float x)
{
  float size = fabsf(x), square = x * x;
  float near = ((((-5.70498872745e-3f * square + 2.06390887954e-2f) * square - 5.37397155531e-2f) * square +
                 1.33314422036e-1f) * square - 3.33332819422e-1f) * square * x + x;
  float far = copysignf(1 - 2 / (exponential(2 * size) + 1), x);
  return size < 0.625f ? near : far;
}

INLINE float sigmoid(float x) { return 1 / (1 + exponential(-x)); }

#define ROOT_2_OVER_PI 0.797884560802865f
#define ROOT_HALF 0.707106781186548f

INLINE float value(const int activation, float z, float parameter)
{
  switch (activation) {
    case RELU: return z < 0 ? 0 : z;
    case TANH: return tangent(z);
    case ELU: return z > 0 ? z : parameter * (exponential(z) - 1);
    case GELU: return 0.5f * z * (1 + erff(z * ROOT_HALF));
    case GELU_TANH: return 0.5f * z * (1 + tangent(ROOT_2_OVER_PI * (z + 0.044715f * z * z * z)));
    case SILU: return z * sigmoid(z);
    case LEAKY_RELU: return z > 0 ? z : z * parameter;
    default: return z;
  }
}

/* From f(z) for ReLU and tanh, from z for all others */
INLINE float derivative(const int activation, float kept, float parameter)
{
  float z = kept;
  switch (activation) {
    case RELU: return kept > 0;
    case TANH: return 1 - kept * kept;
    case ELU: return z > 0 ? 1 : parameter * exponential(z);
    case GELU: return 0.5f * (1 + erff(z * ROOT_HALF)) + z * 0.5f * ROOT_2_OVER_PI * exponential(-0.5f * z * z);
    case GELU_TANH: {
      float t = tangent(ROOT_2_OVER_PI * (z + 0.044715f * z * z * z));
      return 0.5f * (1 + t) + 0.5f * z * (1 - t * t) * ROOT_2_OVER_PI * (1 + 3 * 0.044715f * z * z);
    }
    case SILU: {
      float s = sigmoid(z);
      return s * (1 + z * (1 - s));
    }
    case LEAKY_RELU: return z > 0 ? 1 : parameter;
    default: return 1;
  }
}

/* Call a macro with each activation as a constant, so that each has a loop of its own */
#define FOR(activation, DO)                \
  switch (activation) {                    \
    case RELU: DO(RELU); break;            \
    case TANH: DO(TANH); break;            \
    case ELU: DO(ELU); break;              \
    case GELU: DO(GELU); break;            \
    case GELU_TANH: DO(GELU_TANH); break;  \
    case SILU: DO(SILU); break;            \
    case LEAKY_RELU: DO(LEAKY_RELU); break; \
  }

/* --- LayerNorm (Ba et al. 2016) --- */

/* x <- (x - mean) / sqrt(variance + eps), of which the factor is returned */
static float normalize(integer n, float *x, float eps)
{
  float mean = sum(n, x) / n;
  for (integer j = 0; j < n; j++) x[j] -= mean;
  float scale = 1 / sqrtf(dot(n, x, x) / n + eps);
  for (integer j = 0; j < n; j++) x[j] *= scale;
  return scale;
}

INLINE void affine(integer n, const float *x, const float *weight, const float *bias, float *y)
{
  _Pragma("GCC ivdep") for (integer j = 0; j < n; j++) y[j] = x[j] * weight[j] + bias[j];
}

static void normalize_rows(const struct layer *layer, int which, integer batch)
{
  for (integer i = 0; i < batch; i++) {
    float *x = layer->normalized + i * layer->stride, *y = layer->kept + i * layer->stride;
    layer->scales[i] = normalize(layer->n_out, x, layer->norm_eps);
    affine(layer->n_out, x, layer->norm_weight[which], layer->norm_bias[which], y);
  }
}

/* From dL / dy in delta to dL / dz = scale (g - mean(g) - x mean(g x)), where y = weight x + bias, g = weight dL / dy */
static void normalize_backward(const struct layer *layer, integer batch, int to_train)
{
  integer n = layer->n_out;
  const float *weight = layer->norm_weight[ONLINE];
  float *restrict weight_grad = layer->norm_weight_grad, *restrict bias_grad = layer->norm_bias_grad;
  if (to_train) {
    memset(weight_grad, 0, sizeof(float) * n);
    memset(bias_grad, 0, sizeof(float) * n);
  }
  for (integer i = 0; i < batch; i++) {
    const float *x = layer->normalized + i * layer->stride;
    float *restrict delta = layer->delta + i * layer->stride, scale = layer->scales[i];
    if (to_train)
      for (integer j = 0; j < n; j++) {
        weight_grad[j] += delta[j] * x[j];
        bias_grad[j] += delta[j];
      }
    for (integer j = 0; j < n; j++) delta[j] *= weight[j];
    float mean = sum(n, delta) / n, slope = dot(n, delta, x) / n;
    for (integer j = 0; j < n; j++) delta[j] = scale * (delta[j] - mean - slope * x[j]);
  }
}

/* --- Networks --- */

/* The outputs of a network or its target. `output` may be somewhere else for the last layer: a row there has
   `output_row` numbers */
static void forward(const struct network *net, int which, integer batch, const float *inputs, integer inputs_row,
                    float *output, integer output_row)
{
  for (integer i = 0; i < net->n_layers; i++) {
    const struct layer *layer = &net->layers[i];
    integer n = layer->n_out, stride = layer->stride;
    transpose(n, layer->n_in, layer->weight[which], layer->transposed, stride);
    int has_norm = layer->norm_weight[which] != 0;
    product(batch, n, layer->n_in, inputs, inputs_row, 1, layer->transposed, stride, layer->bias[which],
            has_norm ? layer->normalized : layer->kept, stride);
    if (has_norm) normalize_rows(layer, which, batch);
    if (layer->pre_activations && which == ONLINE)
      memcpy(layer->pre_activations, layer->kept, sizeof(float) * batch * stride);
    float parameter = layer->parameter;
    const float *z = layer->kept;
    float *h = layer->output; /* the same memory as z if the derivative is computed from f(z) */
#define VALUES(activation) \
  _Pragma("GCC ivdep") for (integer q = 0; q < batch * stride; q++) h[q] = value(activation, z[q], parameter)
    FOR(layer->activation, VALUES)
    inputs = layer->output, inputs_row = stride;
  }
  if (output)
    for (integer i = 0; i < batch; i++)
      memcpy(output + i * output_row, inputs + i * inputs_row, sizeof(float) * net->layers[net->n_layers - 1].n_out);
}

/* From dL / d output in the last layer's delta to dL / dz of the first layer. With inputs, dL / d parameters as well */
static void backward(const struct network *net, integer batch, const float *inputs, integer inputs_row)
{
  for (integer i = net->n_layers - 1; i >= 0; i--) {
    const struct layer *layer = &net->layers[i], *below = i ? layer - 1 : 0;
    integer n = layer->n_out, n_in = layer->n_in, stride = layer->stride;
    float parameter = layer->parameter, *delta = layer->delta;
    const float *kept = layer->kept;
#define DERIVATIVES(activation) \
  for (integer q = 0; q < batch * stride; q++) delta[q] *= derivative(activation, kept[q], parameter)
    FOR(layer->activation, DERIVATIVES)
    if (layer->pre_activations) {
      float penalty = layer->penalty;
      for (integer q = 0; q < batch * stride; q++) delta[q] += penalty * layer->pre_activations[q];
    }
    if (layer->norm_weight[ONLINE]) normalize_backward(layer, batch, inputs != 0);
    if (inputs) {
      const float *x = below ? below->output : inputs;
      product(n, n_in, batch, delta, 1, stride, x, below ? below->stride : inputs_row, 0, layer->weight_grad, n_in);
      memset(layer->bias_grad, 0, sizeof(float) * n);
      for (integer q = 0; q < batch; q++)
        for (integer j = 0; j < n; j++) layer->bias_grad[j] += delta[q * stride + j];
    }
    if (below) product(batch, n_in, n, delta, stride, 1, layer->weight[ONLINE], n_in, 0, below->delta, below->stride);
  }
}

/* Shorten the gradient to a norm, as PyTorch's clip_grad_norm_ does it */
static void clip_gradient(const struct adam *adam, double max_norm)
{
  float *grads = adam->grads, scale = max_norm / (sqrtf(dot(adam->n_params, grads, grads)) + 1e-6f);
  if (scale >= 1) return;
  for (integer i = 0; i < adam->n_params; i++) grads[i] *= scale;
}

/* Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019) as PyTorch does it, then theta' <- tau theta + (1 - tau) theta' */
static void adam_and_soft_update(const struct adam *adam, double tau)
{
  double step = adam->step_counts[0] + 1;
  for (integer i = 0; i < adam->n_step_counts; i++) adam->step_counts[i] = step;
  const float rate1 = 1 - adam->beta1, beta2 = adam->beta2, rate2 = 1 - adam->beta2;
  const double root_correction = sqrt(1 - pow(adam->beta2, step));
  const float step_size = adam->learning_rate * root_correction / (1 - pow(adam->beta1, step));
  const float eps = adam->eps * root_correction, rate_of_targets = tau;
  /* Weight decay is part of the gradient; decoupled, it shrinks the parameters instead */
  const float decay = adam->decoupled ? 0 : adam->weight_decay;
  const float kept = adam->decoupled ? 1 - adam->learning_rate * adam->weight_decay : 1;
  float *restrict params = adam->params, *restrict targets = adam->targets;
  float *restrict means = adam->means, *restrict squares = adam->squares;
  const float *restrict grads = adam->grads;
  for (integer i = 0; i < adam->n_params; i++) {
    float grad = grads[i] + decay * params[i];
    means[i] += rate1 * (grad - means[i]);
    squares[i] = beta2 * squares[i] + rate2 * grad * grad;
    params[i] = kept * params[i] - step_size * means[i] / (sqrtf(squares[i]) + eps);
    targets[i] += rate_of_targets * (params[i] - targets[i]);
  }
}

/* --- The gradient step --- */

INLINE const struct layer *last(const struct network *net) { return &net->layers[net->n_layers - 1]; }

INLINE float clipped(float x, float limit) { return x < -limit ? -limit : x > limit ? limit : x; /* NaN stays NaN */ }

INLINE float q_value(const struct network *critic, integer i) { return last(critic)->output[i * last(critic)->stride]; }

/* Sums of n rewards, each discounted by gamma; they end before with the episode, and with the newest position. The next
   transition of an environment is n_envs rows further on, in a ring of n_rows */
struct returns {
  integer n;
  float gamma;
  integer n_envs, newest, n_rows;
};

/* One row of a replay buffer has s, a, s', r, d and whether the episode was cut off: then it has not terminated */
static void gather(struct update *u, const float *rows, const integer *indices, const float *discounts,
                   struct returns returns)
{
  integer n_inputs = u->n_observations + u->n_actions, row_length = n_inputs + u->n_observations + 3;
  for (integer i = 0; i < u->batch; i++) {
    integer index = indices[i];
    const float *row = rows + index * row_length, *rest = row + n_inputs + u->n_observations;
    float sum = rest[0], discount = returns.gamma;
    memcpy(u->inputs + i * u->stride, row, sizeof(float) * n_inputs);
    for (integer k = 1; k < returns.n && !(rest[1] + rest[2] > 0) && index / returns.n_envs != returns.newest; k++) {
      index = (index + returns.n_envs) % returns.n_rows;
      rest = rows + (index + 1) * row_length - 3;
      sum += discount * rest[0];
      discount *= returns.gamma;
    }
    memcpy(u->next_inputs + i * u->stride, rest - u->n_observations, sizeof(float) * u->n_observations);
    u->rewards[i] = sum;
    u->bootstrap[i] = (discounts ? discounts[i] : discount) * (1 - rest[1] * (1 - rest[2]));
  }
}

/* weights[batch], or null for 1, of the squared errors. noise[batch, n_actions], or null, is added to the target's
   actions */
static void step(struct update *u, const float *weights, const float *noise)
{
  integer n = u->batch;
  float *actions = u->inputs + u->n_observations, *next_actions = u->next_inputs + u->n_observations, *y = u->rewards;
  const struct network *first = u->critics, *end = first + u->n_critics;
  const float huber_delta = u->huber_delta;
  double loss = 0;

  /* y = r + g (1 - d) min Q'(s', mu'(s')) */
  forward(&u->actor, TARGET, n, u->next_inputs, u->stride, next_actions, u->stride);
  for (integer i = 0; noise && i < n; i++)
    for (integer j = 0; j < u->n_actions; j++) {
      float *action = next_actions + i * u->stride + j;
      *action = clipped(*action + noise[i * u->n_actions + j], 1);
    }
  for (const struct network *critic = first; critic < end; critic++)
    forward(critic, TARGET, n, u->next_inputs, u->stride, 0, 0);
  for (integer i = 0; i < n; i++) {
    float least = q_value(first, i);
    for (const struct network *critic = first + 1; critic < end; critic++) {
      float q = q_value(critic, i);
      least = q < least || q != q ? q : least; /* NaN stays NaN */
    }
    y[i] += u->bootstrap[i] * least;
  }

  /* L(Q) = mean w e^2 for each critic, e = Q - y, dL / dQ = 2 w e / n. With the limit of Huber's loss, e becomes d
     there */
  memset(u->td_errors, 0, sizeof(float) * n);
  for (const struct network *critic = first; critic < end; critic++) {
    const struct layer *top = last(critic);
    forward(critic, ONLINE, n, u->inputs, u->stride, 0, 0);
    for (integer i = 0; i < n; i++) {
      float error = q_value(critic, i) - y[i];
      float limited = clipped(error, huber_delta), weight = weights ? weights[i] : 1;
      loss += (double)limited * (2 * error - limited) * weight;
      top->delta[i * top->stride] = 2 * limited / n * weight;
      u->td_errors[i] += fabsf(error) / u->n_critics;
    }
    backward(critic, n, u->inputs, u->stride);
  }
  u->losses[1] += loss / n;
  if (u->max_grad_norm < INFINITY) clip_gradient(&u->critic_adam, u->max_grad_norm);
  adam_and_soft_update(&u->critic_adam, u->tau);

  /* L(mu) = -mean Q(s, mu(s)) of the first critic, dL / dQ = -1 / n, then dL / da through its first layer */
  const struct layer *top = last(first), *bottom = first->layers, *actor_top = last(&u->actor);
  forward(&u->actor, ONLINE, n, u->inputs, u->stride, actions, u->stride);
  forward(first, ONLINE, n, u->inputs, u->stride, 0, 0);
  loss = 0;
  for (integer i = 0; i < n; i++) {
    loss -= q_value(first, i);
    top->delta[i * top->stride] = -1.0f / n;
  }
  u->losses[0] += loss / n;
  backward(first, n, 0, 0);
  product(n, u->n_actions, bottom->n_out, bottom->delta, bottom->stride, 1, bottom->weight[ONLINE] + u->n_observations,
          bottom->n_in, 0, actor_top->delta, actor_top->stride);
  backward(&u->actor, n, u->inputs, u->stride);
  if (u->max_grad_norm < INFINITY) clip_gradient(&u->actor_adam, u->max_grad_norm);
  adam_and_soft_update(&u->actor_adam, u->tau);
}

/* NumPy's interface to a bit generator, as in numpy/random/bitgen.h */
struct bit_generator {
  void *state;
  uint64_t (*next_uint64)(void *);
  uint32_t (*next_uint32)(void *);
};

/* drawn[n] from 0 to bound - 1, the same numbers as np.random.randint(bound, size=n), which takes longer than a third of
   a small update. Numbers of as many bits as the bound has are drawn until one is small enough */
void draw(const struct bit_generator *bits, integer n, integer bound, integer *drawn)
{
  uint32_t largest = bound - 1, mask = largest;
  for (int shift = 1; shift < 32; shift *= 2) mask |= mask >> shift;
  for (integer i = 0; i < n; i++) {
    uint32_t number = 0;
    if (largest)
      do number = bits->next_uint32(bits->state) & mask;
      while (number > largest);
    drawn[i] = number;
  }
}

/* A replay buffer's rows[size, n_envs, n], of which n_positions are filled. With bits, minibatches are drawn as SB3 draws
   them: positions, then environments. Else all steps are on one minibatch, indices[batch] of rows, with discounts[batch],
   or null for gamma, and weights[batch] of the squared errors, or null for 1. Returns are sums of n_returns rewards, and
   end with the newest position. noise[n_steps, batch, n_actions] of the target's actions, or null */
void steps(struct update *u, integer n_steps, const float *rows, integer size, integer n_envs,
           const struct bit_generator *bits, integer n_positions, integer *indices, integer n_returns, double gamma,
           integer newest, const float *discounts, const float *weights, const float *noise, integer threads)
{
  const struct returns returns = {n_returns, gamma, n_envs, newest, size * n_envs};
  n_threads = threads;
  for (integer k = 0; k < n_steps; k++) {
    if (bits) {
      draw(bits, u->batch, n_positions, indices);
      draw(bits, u->batch, n_envs, indices + u->batch);
      for (integer i = 0; i < u->batch; i++) indices[i] = indices[i] * n_envs + indices[u->batch + i];
    }
    gather(u, rows, indices, discounts, returns);
    step(u, weights, noise ? noise + k * u->batch * u->n_actions : 0);
  }
}

/* scaled[n, n_out] = mu(inputs[n, n_in]), with noise unless that is null, clipped; actions are between low and high. Row
   by row: without a minibatch's memory, and without transposed weights */
void act(const struct network *net, integer n, const float *inputs, const float *noise, const float *low,
         const float *high, float *scratch, integer width, float *scaled, float *actions)
{
  integer n_inputs = net->layers[0].n_in, n_outputs = net->layers[net->n_layers - 1].n_out;
  for (integer k = 0; k < n; k++) {
    const float *x = inputs + k * n_inputs;
    for (integer i = 0; i < net->n_layers; i++) {
      const struct layer *layer = &net->layers[i];
      float *h = scratch + (i & 1) * width, parameter = layer->parameter;
      for (integer j = 0; j < layer->n_out; j++)
        h[j] = layer->bias[ONLINE][j] + dot(layer->n_in, layer->weight[ONLINE] + j * layer->n_in, x);
      if (layer->norm_weight[ONLINE]) {
        normalize(layer->n_out, h, layer->norm_eps);
        affine(layer->n_out, h, layer->norm_weight[ONLINE], layer->norm_bias[ONLINE], h);
      }
#define OF_ONE(activation) for (integer j = 0; j < layer->n_out; j++) h[j] = value(activation, h[j], parameter)
      FOR(layer->activation, OF_ONE)
      x = h;
    }
    for (integer j = 0, i = k * n_outputs; j < n_outputs; j++, i++) {
      float action = noise ? x[j] + noise[i] : x[j];
      scaled[i] = clipped(action, 1);
      actions[i] = low[j] + 0.5f * (high[j] - low[j]) * (scaled[i] + 1);
    }
  }
}
