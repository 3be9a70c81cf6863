// Binds the plan of a gradient pool to Python.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "plan.h"

namespace py = pybind11;

namespace {

bool is_same(const py::list& left, const py::list& right) {
  return left.size() == right.size() &&
         std::equal(left.begin(), left.end(), right.begin(), [](py::handle a, py::handle b) { return a.is(b); });
}

}  // namespace

PYBIND11_MODULE(_pool, m) {
  m.doc() = "Where each gradient lies in a pool, by addresses and sizes.";
  m.def("is_same", &is_same, py::arg("left"), py::arg("right"), "Whether two lists hold the same objects in order.");
  py::class_<esper::Plan>(m, "Plan")
      .def(
          py::init<int64_t, int64_t, int64_t>(), py::kw_only(), py::arg("rows"), py::arg("item_bytes"),
          py::arg("alignment"))
      .def("add", &esper::Plan::add, py::arg("numel"))
      .def("remove", &esper::Plan::remove, py::arg("slot"))
      .def("offset", &esper::Plan::offset, py::arg("slot"))
      .def("numel", &esper::Plan::numel, py::arg("slot"))
      .def("is_live", &esper::Plan::is_live, py::arg("slot"))
      .def("unbound", &esper::Plan::unbound, py::arg("row"), py::arg("row_address"), py::arg("addresses"))
      .def("is_present", &esper::Plan::is_present, py::arg("row"), py::arg("slot"))
      .def("presence", &esper::Plan::presence, py::arg("row"))
      .def("live", &esper::Plan::live)
      .def_property_readonly("rows", &esper::Plan::rows)
      .def_property_readonly("slots", &esper::Plan::slots)
      .def_property_readonly("extent", &esper::Plan::extent);
}
