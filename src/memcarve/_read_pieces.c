/* Reads many pieces of a file in one call, without Python's lock; FileBacking.read_pieces has the same in Python.
 *
 * Of a page that is cached, pread(2) costs about what copying it does. Taking many at once from a mapping of the file
 * (writev, process_vm_readv) costs more: each page becomes an entry in page tables, which must be made and removed.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#define _FILE_OFFSET_BITS 64
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { TOGETHER = 1024 };    /* pieces between two looks for signals */
enum { AROUND = 1 << 15 };   /* bytes that a disk gives in hardly more time than a page of them */

typedef struct {
    off_t offset;
    size_t length;
} Piece;

/* Take up to TOGETHER pieces of a list from `first` on, which fit in `room` bytes; return how many, -1: an error.
 *
 * The file's own lie from `begin` to `end`, and are counted from there; what is not to be read has the offset -1. */
static Py_ssize_t take(PyObject *list, Py_ssize_t first, Py_ssize_t room, long long begin, long long end, Piece *pieces)
{
    Py_ssize_t count = PyList_Size(list) - first;
    if (count > TOGETHER)
        count = TOGETHER;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *row = PyList_GetItem(list, first + at);
        if (!row || !PyTuple_Check(row) || PyTuple_Size(row) != 2) {
            PyErr_SetString(PyExc_TypeError, "a piece is a tuple of two numbers");
            return -1;
        }
        long long offset = PyLong_AsLongLong(PyTuple_GetItem(row, 0));
        Py_ssize_t length = PyErr_Occurred() ? -1 : PyLong_AsSsize_t(PyTuple_GetItem(row, 1));
        if (PyErr_Occurred())
            return -1;
        if (offset < 0 || length < 0 || length > room) {
            PyErr_SetString(PyExc_ValueError, "a piece begins before the file, or ends behind the buffer");
            return -1;
        }
        int mine = begin <= offset && (offset < end || end == LLONG_MAX);
        pieces[at] = (Piece){mine ? (off_t)(offset - begin) : -1, (size_t)length};
        room -= length;
    }
    return count;
}

/* Read a piece if all of it is cached; return 0 if it is not, -1 if the file system cannot say. */
static int read_cached(int fd, Piece piece, char *buffer)
{
#ifdef RWF_NOWAIT
    struct iovec part = {buffer, piece.length};
    ssize_t came = preadv2(fd, &part, 1, piece.offset, RWF_NOWAIT);
    return came == (ssize_t)piece.length ? 1 : came < 0 && errno != EAGAIN ? -1 : 0;
#else
    (void)fd, (void)piece, (void)buffer;
    return -1;
#endif
}

/* Ask for pieces that are not cached, all at once: one after the other, a disk would take many times as long. */
static void ask_for(int fd, const Piece *pieces, Py_ssize_t count)
{
#ifdef RWF_NOWAIT
    for (Py_ssize_t at = 0; at < count; at++) {
        if (pieces[at].offset < 0)
            continue;
        /* unsigned: the sum may be more than any file has */
        uint64_t offset = (uint64_t)pieces[at].offset, mask = ~(uint64_t)(AROUND - 1);
        uint64_t begin = offset & mask, end = (offset + pieces[at].length + AROUND - 1) & mask;
        posix_fadvise(fd, (off_t)begin, (off_t)(end - begin), POSIX_FADV_WILLNEED);
    }
#else
    (void)fd, (void)pieces, (void)count;
#endif
}

/* Read pieces one behind the other, or pass over them; return for how many bytes that went well. */
static Py_ssize_t read_all(int fd, const Piece *pieces, Py_ssize_t count, char *buffer, int *asking)
{
    Py_ssize_t done = 0;
    int cached = *asking;
    for (Py_ssize_t at = 0; at < count; at++) {
        ssize_t length = (ssize_t)pieces[at].length;
        if (pieces[at].offset < 0) {
            done += length;
            continue;
        }
        if (cached) {
            int found = read_cached(fd, pieces[at], buffer + done);
            if (found > 0) {
                done += length;
                continue;
            }
            cached = 0;
            if (found < 0)
                *asking = 0;
            else
                ask_for(fd, pieces + at, count - at);
        }
        ssize_t came = pread(fd, buffer + done, (size_t)length, pieces[at].offset);
        done += came > 0 ? came : 0;
        if (came != length)
            break;
    }
    return done;
}

static PyObject *read_pieces(PyObject *module, PyObject *args)
{
    (void)module;
    int fd, asking = 1;
    long long begin = 0, end = LLONG_MAX;
    PyObject *list;
    Py_buffer buffer;
    if (!PyArg_ParseTuple(args, "iO!w*|LL", &fd, &PyList_Type, &list, &buffer, &begin, &end))
        return NULL;
    Piece pieces[TOGETHER];
    Py_ssize_t first = 0, count, done = 0;
    while ((count = take(list, first, buffer.len - done, begin, end, pieces)) > 0) {
        Py_ssize_t wanted = 0, came;
        for (Py_ssize_t at = 0; at < count; at++)
            wanted += (Py_ssize_t)pieces[at].length;
        Py_BEGIN_ALLOW_THREADS
        came = read_all(fd, pieces, count, (char *)buffer.buf + done, &asking);
        Py_END_ALLOW_THREADS
        done += came;
        first += count;
        if (PyErr_CheckSignals() || came < wanted)
            break;
    }
    PyBuffer_Release(&buffer);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(done);
}

static PyMethodDef methods[] = {
    {"read_pieces", read_pieces, METH_VARARGS,
     "read_pieces(fd, pieces, buffer, begin=0, end=2**63-1): fill a buffer with pieces, a list of (offset, length), one\n"
     "behind the other.\n\n"
     "An offset of `begin` is the file's first byte; pieces outside of `begin` and `end` (2**63-1: there is none) are\n"
     "passed over, with their room in the buffer. Returns how many bytes came, or were passed over, before the first that\n"
     "did not come: to read that one tells why."},
    {NULL, NULL, 0, NULL},
};

/* One more with each change of what Python gives or gets: what was compiled before is not used then. */
enum { INTERFACE = 1 };

static int execute(PyObject *module) { return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "memcarve._read_pieces",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__read_pieces(void) { return PyModuleDef_Init(&definition); }
