// Operator schemas of the `esper` namespace and the shell of the module `_C`; no arithmetic.
//
// Every schema states what it mutates; no output aliases an input. The CPU kernels are bound in csrc/cpu, the CUDA
// kernels in a library of their own (csrc/cuda), fake kernels and derivatives in esper/kernels.

#include <Python.h>

#include <torch/csrc/stable/library.h>

#include "common/tiles.h"

STABLE_TORCH_LIBRARY(esper, m) {
  // Writes the gradients one after another into the 1-D `out`. `sizes` (may be empty when nothing is absent) holds the
  // number of elements of each; an empty tensor where sizes[i] > 0 is an absent gradient and becomes zeros. `convert`
  // permits a dtype other than that of `out`.
  m.def("flatten_(Tensor[] grads, int[] sizes, Tensor(a!) out, bool convert=False) -> ()");

  // The same tensors again and again: the plan holds them, knows what flatten_ would find out about each, and serves
  // vectors of the dtype and device of `like`. flatten_planned_ returns false, and writes nothing, if a tensor was
  // moved, resized or freed since. A plan is a tensor of one byte that stands for it.
  m.def("flatten_plan(Tensor[] grads, int[] sizes, Tensor like, bool convert=False) -> Tensor");
  m.def("flatten_planned_(Tensor plan, Tensor(a!) out) -> bool");

  // Inner products of the K rows of [K, N] (any strides) as float64 [K, K]; `fast` accumulates float32 blocks.
  m.def("gram(Tensor rows, bool fast=False) -> Tensor");

  // The same from K lists laid end to end: grads[k * T + t] is tensor t of row k and out is float64 [K, K]. An empty
  // tensor stands for an absent gradient, a zero.
  m.def("gram_list_(Tensor[] grads, Tensor(a!) out, bool fast=False) -> ()");

  // Projects in Gram space. order: int64 [K, K]; weights: float64 [K], by default ones; mean divides by their sum.
  // -> coefficients float64 [K] (result = sum_k c_k row_k), conflicts int64 [2] (raw pairs, projections applied),
  //    status int64 [2] (bit mask of non-finite rows, mask of rows with an invalid order or weight).
  m.def("pcgrad_solve(Tensor gram, Tensor order, Tensor? weights, bool mean, float tau) -> (Tensor, Tensor, Tensor)");

  // out = sum_k coefficients[k] * rows[k]; zeros when any word of `status` is not zero.
  m.def("combine_(Tensor rows, Tensor coefficients, Tensor status, Tensor(a!) out) -> ()");
  m.def("combine_list_(Tensor[] grads, int[] sizes, Tensor coefficients, Tensor status, Tensor(a!) out) -> ()");

  // gram + pcgrad_solve + combine_ in one call; returns what pcgrad_solve returns.
  m.def(
      "pcgrad_(Tensor rows, Tensor order, Tensor? weights, bool mean, float tau, bool fast, Tensor(a!) out)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "pcgrad_list_(Tensor[] grads, int[] sizes, Tensor order, Tensor? weights, bool mean, float tau, bool fast,"
      " Tensor(a!) out) -> (Tensor, Tensor, Tensor)");

  // e = alpha clamped to [0, 1], or clamp(alpha * gate[index], lo, hi) with index along gate_dim, and 0 where alpha is
  // 0. The length of gate divides size(gate_dim); each entry serves a run of equal length. Value: (1-e) host + e seed
  // (convex) or host + e seed. e = 0 does not read the seed, convex e = 1 does not read the host. alpha is 0-d, alpha
  // and gate are float32 or float64; a NaN in either becomes a NaN in the value.
  m.def(
      "blend(Tensor host, Tensor seed, Tensor alpha, Tensor? gate, int gate_dim, float lo, float hi, bool convex)"
      " -> Tensor");

  // Gradients of blend for host and seed; one that is not wanted comes back empty. e = 0 gives exact zeros.
  m.def(
      "blend_backward(Tensor grad, Tensor alpha, Tensor? gate, int gate_dim, float lo, float hi, bool convex,"
      " bool want_host, bool want_seed) -> (Tensor, Tensor)");

  // Gradient of blend for alpha, 0-d, in alpha's dtype; float64 accumulation.
  m.def(
      "blend_alpha_grad(Tensor grad, Tensor host, Tensor seed, Tensor alpha, Tensor? gate, int gate_dim, float lo,"
      " float hi, bool convex) -> Tensor");

  // logits [B, C] -> gate float32 [B] = sigmoid(k (m - tau)), statistics float32 [B, 3] (margin of the two largest
  // probabilities, log-sum-exp, entropy in nats), events int64 0-d: rows with one class or a NaN, whose gate is 0. m is
  // the margin, or 1 - entropy / log C. An infinite logit is legal where the softmax has a limit (-inf, one +inf).
  m.def("confidence_gate(Tensor logits, float k, float tau, bool entropy) -> (Tensor, Tensor, Tensor)");

  // e as in blend over all entries of gate (or the one alpha) -> float32 [4]: mean, p95 (nearest rank, the
  // ceil(0.95 n)-th smallest), share of e == 0, share changed by the clamp.
  m.def("blend_stats(Tensor alpha, Tensor? gate, float lo, float hi) -> Tensor");

  // rows [S, N], offsets int64 [L + 1] ascending from 0 to N on the same device -> float64 layer_norms [S, L], dots [S,
  // S], shares [S] (own norm over the sum of norms, 0 if all vanish).
  m.def("seed_metrics(Tensor rows, Tensor offsets) -> (Tensor, Tensor, Tensor)");
}

namespace {

PyObject* cpu_isa(PyObject*, PyObject*) { return PyUnicode_FromString(esper::tiles().name); }

PyObject* force_cpu_isa(PyObject*, PyObject* name) {
  PyObject* bytes = PyUnicode_AsUTF8String(name);
  if (bytes == nullptr) return nullptr;
  const bool is_known = esper::force_tiles(PyBytes_AsString(bytes));
  Py_DECREF(bytes);
  if (!is_known)
    return PyErr_Format(
        PyExc_ValueError, "instruction set %R is not available here: expected auto, portable, avx2 or avx512", name);
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"cpu_isa", cpu_isa, METH_NOARGS, "The instruction set in use."},
    {"force_cpu_isa", force_cpu_isa, METH_O, "Use the named instruction set, or 'auto' for the widest."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

// Importing the module loads the library, whose static initialisers register the operators.
PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&definition); }
