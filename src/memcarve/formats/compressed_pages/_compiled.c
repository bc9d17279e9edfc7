/* Decodes many compressed blocks in one call, without Python's lock: [MS-XCA] 2.2.4 (LZ77+Huffman) and 2.4.4 (LZ77),
 * LZ4 (lz4_Block_format.md), and LZO with Linux's runs of zeros (Documentation/staging/lzo.rst).
 *
 * xpress.py and lzo.py have Xpress and LZO in Python, with the same rules: what one accepts the other does, and what
 * they decode is the same. The input is hostile: every read and write is checked against the block's own bounds, and what is not written
 * is not read. A block without `out` is only checked: what would be written is counted.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PLAIN = 0, HUFFMAN = 1, LZ4 = 2, LZO = 3 };
enum { TABLE = 256, SYMBOLS = 512, LONGEST = 15, ENTRIES = 1 << LONGEST, BLOCK = 65536, END = 256 };

/* where a block is read from and written to (NULL: nowhere); `done` bytes are written */
typedef struct {
    const uint8_t *in;
    size_t in_size, at;
    uint8_t *out;
    size_t out_size, done;
} Block;

static uint32_t u16(const uint8_t *from) { return from[0] | (uint32_t)from[1] << 8; }

static uint32_t u32(const uint8_t *from) { return u16(from) | u16(from + 2) << 16; }

/* Copy what lies `offset` bytes back, byte by byte in effect: the source may be what is being written. */
static inline int copy_match(Block *block, size_t offset, size_t length)
{
    if (offset > block->done || length > block->out_size - block->done)
        return 0;
    if (!block->out) {
        block->done += length;
        return 1;
    }
    uint8_t *to = block->out + block->done;
    const uint8_t *from = to - offset;
    block->done += length;
    if (offset >= 8 && block->out_size - block->done >= 8) {
        for (size_t at = 0; at < length; at += 8)
            memcpy(to + at, from + at, 8); /* up to 7 bytes too many, which are written again */
    } else if (offset == 1) {
        memset(to, *from, length);
    } else {
        for (size_t at = 0; at < length; at++)
            to[at] = from[at];
    }
    return 1;
}

/* Copy `count` bytes of the input as they are. */
static inline int copy_literals(Block *block, size_t count)
{
    size_t left = block->in_size - block->at, room = block->out_size - block->done;
    if (count > left || count > room)
        return 0;
    if (block->out) {
        uint8_t *to = block->out + block->done;
        const uint8_t *from = block->in + block->at;
        if (count <= 32 && left >= 32 && room >= 32) { /* up to 32 too many, which are written again */
            memcpy(to, from, 16);
            memcpy(to + 16, from + 16, 16);
        } else {
            memcpy(to, from, count);
        }
    }
    block->at += count;
    block->done += count;
    return 1;
}

/* Return how many of the highest bits are 0, 32 if all are. */
static inline uint32_t leading_zeros(uint32_t bits)
{
    if (!bits)
        return 32;
#if defined(__GNUC__)
    return (uint32_t)__builtin_clz(bits);
#else
    uint32_t count = 0;
    while (!(bits >> 31)) {
        bits <<= 1;
        count++;
    }
    return count;
#endif
}

/* Read a length that its byte says to be longer: two bytes or four, of at least `least`. */
static int long_length(Block *block, uint32_t least, uint32_t *length)
{
    if (block->in_size - block->at < 2)
        return 0;
    *length = u16(block->in + block->at);
    block->at += 2;
    if (*length == 0) {
        if (block->in_size - block->at < 4)
            return 0;
        *length = u32(block->in + block->at);
        block->at += 4;
    }
    return *length >= least;
}

static int plain(Block *block)
{
    const uint8_t *in = block->in;
    uint32_t flags = 0, count = 0; /* the next flag is the highest bit; so many are left */
    size_t half = 0; /* where a byte's high half is still to be used; 0 is never such a place */

    while (block->done < block->out_size) {
        if (count == 0) {
            if (block->in_size - block->at < 4)
                return 0;
            flags = u32(in + block->at);
            block->at += 4;
            count = 32;
        }
        uint32_t run = leading_zeros(flags);
        if (run) {
            if (run > count)
                run = count;
            if (run > block->out_size - block->done)
                run = (uint32_t)(block->out_size - block->done);
            if (!copy_literals(block, run))
                return 0;
            flags = (uint32_t)((uint64_t)flags << run);
            count -= run;
            continue;
        }
        flags <<= 1;
        count--;
        if (block->in_size - block->at < 2)
            return 0;
        uint32_t match = u16(in + block->at), length = match & 7;
        block->at += 2;
        if (length == 7) {
            if (half) {
                length = in[half] >> 4;
                half = 0;
            } else {
                if (block->at == block->in_size)
                    return 0;
                half = block->at++;
                length = in[half] & 15;
            }
            if (length == 15) {
                if (block->at == block->in_size)
                    return 0;
                length = in[block->at++];
                if (length == 255) {
                    if (!long_length(block, 15 + 7, &length))
                        return 0;
                    length -= 15 + 7;
                }
                length += 15;
            }
            length += 7;
        }
        if (!copy_match(block, (match >> 3) + 1, (size_t)length + 3))
            return 0;
    }
    /* an encoder may begin another word of flags, the first of which says that this is the end */
    if (count == 0 && block->in_size - block->at == 4)
        return in[block->at + 3] >> 7;
    return block->at == block->in_size;
}

/* Fill `table`: for each 15 bits the symbol, and 512 times the length of its code. Every entry must have one. */
static int decoding_table(const uint8_t *lengths, uint16_t *table)
{
    uint32_t first[LONGEST + 2] = {0}, entry = 0;
    for (int symbol = 0; symbol < SYMBOLS; symbol++)
        first[lengths[symbol / 2] >> symbol % 2 * 4 & 15]++;
    for (int length = 1; length <= LONGEST; length++) {
        uint32_t symbols = first[length];
        first[length] = entry;
        entry += symbols << (LONGEST - length);
    }
    if (entry != ENTRIES)
        return 0;
    for (int symbol = 0; symbol < SYMBOLS; symbol++) {
        int length = lengths[symbol / 2] >> symbol % 2 * 4 & 15;
        if (length == 0)
            continue;
        uint32_t entries = 1u << (LONGEST - length);
        for (uint32_t at = first[length]; at < first[length] + entries; at++)
            table[at] = (uint16_t)(symbol | length << 9);
        first[length] += entries;
    }
    return 1;
}

/* Take `count` bits, at most 15, off the front of `*bits`; return 0 if the two bytes that must follow are not there. */
static int take(Block *block, uint32_t *bits, int *spare, int count)
{
    *bits <<= count;
    *spare -= count;
    if (*spare < 0) {
        if (block->in_size - block->at < 2)
            return 0;
        *bits |= u16(block->in + block->at) << -*spare;
        block->at += 2;
        *spare += 16;
    }
    return 1;
}

static int huffman(Block *block, uint16_t *table)
{
    for (;;) {
        if (block->in_size - block->at < TABLE)
            return block->done == block->out_size;
        const uint8_t *lengths = block->in + block->at;
        if (!decoding_table(lengths, table))
            return 0;
        block->at += TABLE;
        if (block->in_size - block->at < 4)
            return 0;
        uint32_t bits = u16(block->in + block->at) << 16 | u16(block->in + block->at + 2);
        int spare = 16;
        block->at += 4;
        size_t end = block->done + BLOCK; /* a match may reach beyond it */
        while (block->done < end) {
            if (block->done == block->out_size) {
                /* an encoder that has no code for the end has none to write */
                if (!(lengths[END / 2] & 15))
                    return block->at == block->in_size;
                uint32_t last = table[bits >> (32 - LONGEST)];
                return (last & (SYMBOLS - 1)) == END && take(block, &bits, &spare, (int)(last >> 9)) &&
                       block->at == block->in_size;
            }
            uint32_t found = table[bits >> (32 - LONGEST)], symbol = found & (SYMBOLS - 1);
            if (!take(block, &bits, &spare, (int)(found >> 9)))
                return 0;
            if (symbol < 256) {
                if (block->out)
                    block->out[block->done] = (uint8_t)symbol;
                block->done++;
                continue;
            }
            uint32_t length = symbol & 15;
            int width = (int)(symbol - 256) >> 4;
            if (length == 15) {
                if (block->at == block->in_size)
                    return 0;
                length = block->in[block->at++];
                if (length == 255) {
                    if (!long_length(block, 15, &length))
                        return 0;
                    length -= 15;
                }
                length += 15;
            }
            uint32_t offset = (1u << width) + (width ? bits >> (32 - width) : 0);
            if (!take(block, &bits, &spare, width) || !copy_match(block, offset, (size_t)length + 3))
                return 0;
        }
    }
}

/* Read what is added to a length of LZ4 that is as long as its four bits can say: bytes up to one that is not 255. */
static int more_length(Block *block, size_t *length)
{
    uint8_t byte;
    do {
        if (block->at == block->in_size || *length > block->out_size)
            return 0;
        byte = block->in[block->at++];
        *length += byte;
    } while (byte == 255);
    return 1;
}

static int lz4(Block *block)
{
    for (;;) {
        if (block->at == block->in_size)
            return 0;
        uint32_t token = block->in[block->at++];
        size_t literals = token >> 4, length = (token & 15) + 4;
        if (literals == 15 && !more_length(block, &literals))
            return 0;
        if (!copy_literals(block, literals))
            return 0;
        if (block->at == block->in_size)
            return block->done == block->out_size;
        if (block->in_size - block->at < 2)
            return 0;
        uint32_t offset = u16(block->in + block->at);
        block->at += 2;
        if (length == 15 + 4 && !more_length(block, &length))
            return 0;
        /* the last match begins 12 bytes before the end at least, and ends 5 before it */
        size_t room = block->out_size - block->done;
        if (!offset || room < 12 || length > room - 5 || !copy_match(block, offset, length))
            return 0;
    }
}

/* Read what is added to a length of LZO that its instruction does not say (0): bytes up to one that is not 0. */
static int lzo_length(Block *block, size_t longest, size_t *length)
{
    if (*length)
        return 1;
    *length = longest;
    uint8_t byte;
    do {
        if (block->at == block->in_size || *length > block->out_size)
            return 0;
        byte = block->in[block->at++];
        *length += byte ? byte : 255;
    } while (!byte);
    return 1;
}

static int write_zeros(Block *block, size_t length)
{
    if (length > block->out_size - block->done)
        return 0;
    if (block->out)
        memset(block->out + block->done, 0, length);
    block->done += length;
    return 1;
}

static int lzo(Block *block)
{
    const uint8_t *in = block->in;
    int has_runs = 0;
    size_t state = 0; /* how many literals came last, 4 if more did */

    if (block->in_size >= 5 && in[0] == 17) { /* the next byte is the version */
        if (in[1] > 1)
            return 0;
        has_runs = in[1];
        block->at = 2;
    }
    if (block->at < block->in_size && in[block->at] > 17) { /* literals come first */
        state = in[block->at++] - 17u;
        if (!copy_literals(block, state))
            return 0;
    }
    for (;;) {
        if (block->at == block->in_size)
            return 0;
        uint32_t code = in[block->at++], literals;
        size_t length, offset;
        if (code < 16 && state == 0) {
            length = code;
            if (!lzo_length(block, 15, &length) || !copy_literals(block, length + 3))
                return 0;
            state = 4;
            continue;
        }
        if (code < 16 || code >= 64) { /* another byte of the offset follows */
            if (block->at == block->in_size)
                return 0;
            size_t high = in[block->at++];
            literals = code & 3;
            if (code >= 64) {
                length = (code >> 5) + 1;
                offset = (high << 3) + (code >> 2 & 7) + 1;
            } else {
                length = state < 4 ? 2 : 3;
                offset = (high << 2) + (code >> 2) + (state < 4 ? 1 : 2049);
            }
            if (!copy_match(block, offset, length))
                return 0;
        } else if (has_runs && code >> 3 == 3 && block->in_size - block->at >= 3 && u16(in + block->at) >= 0xFFFC) {
            literals = in[block->at] & 3;
            if (!write_zeros(block, (size_t)(in[block->at + 2] << 3 | (code & 7)) + 4))
                return 0;
            block->at += 3;
        } else { /* two bytes of the offset and of literals follow */
            size_t longest = code < 32 ? 7 : 31;
            length = code & longest;
            if (!lzo_length(block, longest, &length) || block->in_size - block->at < 2)
                return 0;
            uint32_t word = u16(in + block->at);
            block->at += 2;
            literals = word & 3;
            offset = word >> 2;
            if (code >= 32)
                offset += 1;
            else if (code < 24 && !offset) /* the end */
                return length == 1 && block->at == block->in_size && block->done == block->out_size;
            else
                offset += code < 24 ? 16384 : 32768;
            if (!copy_match(block, offset, length + 2))
                return 0;
        }
        if (!copy_literals(block, literals))
            return 0;
        state = literals;
    }
}

/* Whether `count` bytes at `begin` lie in `size` bytes. */
static int inside(int64_t begin, int64_t count, Py_ssize_t size)
{
    return begin >= 0 && count >= 0 && begin <= size && count <= size - begin;
}

/* Decode blocks into `target`, or check them if that is NULL (`place` then, too); return whether it could be begun. */
static int run(int method, const Py_buffer *data, const Py_buffer *target, const Py_buffer *offset,
               const Py_buffer *size, const Py_buffer *place, const Py_buffer *length, const Py_buffer *sound)
{
    const Py_buffer *column[4] = {offset, size, length, place};
    Py_ssize_t rows = sound->len, bad = -1;
    uint16_t *table = NULL;
    for (int which = 0; which < (place ? 4 : 3); which++)
        if (column[which]->len != rows * (Py_ssize_t)sizeof(int64_t) ||
            (uintptr_t)column[which]->buf % sizeof(int64_t))
            bad = 0;
    if (method != PLAIN && method != HUFFMAN && method != LZ4 && method != LZO)
        bad = 0;
    if (bad < 0 && method == HUFFMAN && !(table = malloc(ENTRIES * sizeof *table))) {
        PyErr_NoMemory();
        return 0;
    }
    if (bad < 0) {
        const int64_t *from = offset->buf, *bytes = size->buf, *whole = length->buf, *to = place ? place->buf : NULL;
        uint8_t *flags = sound->buf;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t row = 0; row < rows; row++) {
            if (!inside(from[row], bytes[row], data->len) || whole[row] < 0 ||
                (target && !inside(to[row], whole[row], target->len))) {
                bad = row;
                break;
            }
            Block block = {(const uint8_t *)data->buf + from[row], (size_t)bytes[row], 0,
                           target ? (uint8_t *)target->buf + to[row] : NULL, (size_t)whole[row], 0};
            int good = method == PLAIN     ? plain(&block)
                       : method == HUFFMAN ? huffman(&block, table)
                       : method == LZ4     ? lz4(&block)
                                           : lzo(&block);
            flags[row] = (uint8_t)good;
            if (!good && block.out)
                memset(block.out, 0, block.out_size);
        }
        Py_END_ALLOW_THREADS
        free(table);
    }
    if (bad >= 0)
        PyErr_Format(PyExc_ValueError, "row %zd lies outside the data or the target", bad);
    return bad < 0;
}

static PyObject *decode(PyObject *module, PyObject *args)
{
    (void)module;
    int method;
    Py_buffer data, target, offset, size, place, length, sound;
    if (!PyArg_ParseTuple(args, "iy*w*y*y*y*y*w*", &method, &data, &target, &offset, &size, &place, &length, &sound))
        return NULL;
    int done = run(method, &data, &target, &offset, &size, &place, &length, &sound);
    Py_buffer *all[] = {&data, &target, &offset, &size, &place, &length, &sound};
    for (size_t which = 0; which < sizeof all / sizeof *all; which++)
        PyBuffer_Release(all[which]);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *check(PyObject *module, PyObject *args)
{
    (void)module;
    int method;
    Py_buffer data, offset, size, length, sound;
    if (!PyArg_ParseTuple(args, "iy*y*y*y*w*", &method, &data, &offset, &size, &length, &sound))
        return NULL;
    int done = run(method, &data, NULL, &offset, &size, NULL, &length, &sound);
    Py_buffer *all[] = {&data, &offset, &size, &length, &sound};
    for (size_t which = 0; which < sizeof all / sizeof *all; which++)
        PyBuffer_Release(all[which]);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS,
     "decode(method, data, target, offset, size, place, length, sound): see the package, which is the only caller."},
    {"check", check, METH_VARARGS,
     "check(method, data, offset, size, length, sound): which blocks decode would find right; nothing is written."},
    {NULL, NULL, 0, NULL},
};

/* One more with each change of what Python gives or gets: what was compiled before is not used then. */
enum { INTERFACE = 1 };

static int execute(PyObject *module) { return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "memcarve.formats.compressed_pages._compiled",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModuleDef_Init(&definition); }
