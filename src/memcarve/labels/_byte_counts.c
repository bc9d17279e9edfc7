/* Counts how often each byte occurs, without Python's lock; text_stats.window_counts has the same with numpy. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

enum { BYTES = 256, TABLES = 8, MOST = 1 << 30 }; /* bytes at which no counter of a table overflows */

/* Add up to MOST bytes to the counts. Equal bytes side by side go to different tables, and so need not wait. */
static void count(const uint8_t *from, size_t size, int64_t *counts)
{
    uint32_t table[TABLES][BYTES];
    memset(table, 0, sizeof table);
    size_t at = 0;
    for (; at + TABLES <= size; at += TABLES)
        for (size_t which = 0; which < TABLES; which++)
            table[which][from[at + which]]++;
    for (; at < size; at++)
        table[0][from[at]]++;
    for (size_t byte = 0; byte < BYTES; byte++)
        for (size_t which = 0; which < TABLES; which++)
            counts[byte] += table[which][byte];
}

/* Count a window; one in which all bytes are equal, as in one of zeros, is known at a look. */
static void count_window(const uint8_t *from, size_t size, int64_t *counts)
{
    if (memcmp(from, from + 1, size - 1) == 0)
        counts[*from] += (int64_t)size;
    else
        count(from, size, counts);
}

static PyObject *count_windows(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data, counts;
    Py_ssize_t first, window;
    if (!PyArg_ParseTuple(args, "y*nnw*", &data, &first, &window, &counts))
        return NULL;
    const Py_ssize_t row = BYTES * (Py_ssize_t)sizeof(int64_t);
    int fits = 0 < first && first <= window && window <= MOST && (uintptr_t)counts.buf % sizeof(int64_t) == 0;
    /* a window for what is before `first`, and one for each that begins behind that */
    Py_ssize_t windows = !fits ? 0 : data.len <= first ? data.len > 0 : 1 + (data.len - first - 1) / window + 1;
    fits = fits && counts.len % row == 0 && counts.len / row == windows;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *from = data.buf;
        Py_ssize_t left = data.len, size = first;
        for (Py_ssize_t at = 0; at < windows; at++, size = window) {
            size = left < size ? left : size;
            count_window(from, (size_t)size, (int64_t *)counts.buf + at * BYTES);
            from += size;
            left -= size;
        }
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "there are not 256 numbers of 64 bits for each window");
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&counts);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"count_windows", count_windows, METH_VARARGS,
     "count_windows(data, first, window, counts): add how often each byte occurs in windows to a row of 256 counts (int64)\n"
     "for each. The first window ends after `first` bytes, the others are `window` bytes long; the last one may be cut."},
    {NULL, NULL, 0, NULL},
};

/* One more with each change of what Python gives or gets: what was compiled before is not used then. */
enum { INTERFACE = 1 };

static int execute(PyObject *module) { return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "memcarve.labels._byte_counts",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__byte_counts(void) { return PyModuleDef_Init(&definition); }
