/* Compares objects by identity. In Python, a list of the objects has to be made first, which writes to the reference
   count of each: at small networks that took a fifth of a step, because little of this memory is in the cache.

   The functions below belong to Python's stable ABI. They are declared here, so that Python's headers are not needed. */
#include <stddef.h>

typedef struct _object PyObject;
typedef ptrdiff_t Py_ssize_t;
extern Py_ssize_t PyTuple_Size(PyObject *);
extern PyObject *PyTuple_GetItem(PyObject *, Py_ssize_t);
extern Py_ssize_t PyList_Size(PyObject *);
extern PyObject *PyList_GetItem(PyObject *, Py_ssize_t);
extern Py_ssize_t PyDict_Size(PyObject *);
extern int PyDict_Next(PyObject *, Py_ssize_t *, PyObject **, PyObject **);

/* Whether some lists hold these objects, and the values of some dicts are these, in the same order; and whether others
   have these numbers of items. All but sizes are tuples */
int unchanged(PyObject *lists, PyObject *dicts, PyObject *objects, PyObject *sized, const Py_ssize_t *sizes)
{
  Py_ssize_t n = 0, n_objects = PyTuple_Size(objects);
  for (Py_ssize_t i = 0, n_sized = PyTuple_Size(sized); i < n_sized; i++)
    if (PyDict_Size(PyTuple_GetItem(sized, i)) != sizes[i]) return 0;
  for (Py_ssize_t i = 0, n_lists = PyTuple_Size(lists); i < n_lists; i++) {
    PyObject *list = PyTuple_GetItem(lists, i);
    for (Py_ssize_t j = 0, length = PyList_Size(list); j < length; j++)
      if (n == n_objects || PyList_GetItem(list, j) != PyTuple_GetItem(objects, n++)) return 0;
  }
  for (Py_ssize_t i = 0, n_dicts = PyTuple_Size(dicts); i < n_dicts; i++) {
    PyObject *key, *value, *dict = PyTuple_GetItem(dicts, i);
    for (Py_ssize_t position = 0; PyDict_Next(dict, &position, &key, &value);)
      if (n == n_objects || value != PyTuple_GetItem(objects, n++)) return 0;
  }
  return n == n_objects;
}
