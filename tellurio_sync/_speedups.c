/* The hottest steps of a call, in C. Optional: `speedups.py` has the substitutes in Python.

   Its purposes, the most useful first (measured on the round trip of a small call, client and server on one core):
   - It wakes a thread after it has released the GIL (`Receiver.receive`). A thread that is woken before that runs at
     once, finds the GIL taken, and sleeps again: two more thread switches for every call, a quarter of its time.
   - Waiting and reading are one step. The GIL, for which other threads may be queueing, is not taken in between.
   - Frames are made and taken apart without a Python object for each of their parts.

   Rules: no Python code runs in here, except signal handlers where `PyErr_CheckSignals` is called. Memory that is used
   without the GIL belongs to an object that the caller holds. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pythread.h>

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

typedef struct {
    PyTypeObject *semaphore_type;
    PyTypeObject *receiver_type;
} State;

/* --- Semaphore ------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock; /* held unless released and not yet acquired */
    atomic_bool is_released; /* a lock that is not held must not be released, and two threads may try at once */
} Semaphore;

/* Needs no GIL. */
static void release(Semaphore *self)
{
    /* A thread that acquires stores false and then reads the state that it waits for. So a release that is skipped
       here, because another one came first, is not lost: the state was stored before it. */
    if (!atomic_exchange(&self->is_released, true))
        PyThread_release_lock(self->lock);
}

static PyObject *semaphore_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs != NULL && PyDict_GET_SIZE(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "Semaphore() takes no arguments");
        return NULL;
    }
    Semaphore *self = (Semaphore *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(self->lock, NOWAIT_LOCK);
    return (PyObject *)self;
}

static void semaphore_dealloc(Semaphore *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->lock != NULL) {
        release(self); /* on some systems a lock must not be freed while it is held */
        PyThread_free_lock(self->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *semaphore_release(Semaphore *self, PyObject *Py_UNUSED(ignored))
{
    release(self);
    Py_RETURN_NONE;
}

/* Seconds, on a clock that never goes back. */
static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static PY_TIMEOUT_T to_microseconds(double seconds)
{
    return seconds > 0.0 ? (PY_TIMEOUT_T)ceil(seconds * 1e6) : 0;
}

static PyObject *semaphore_acquire(Semaphore *self, PyObject *const *args, Py_ssize_t count)
{
    if (count > 2) {
        PyErr_SetString(PyExc_TypeError, "acquire() takes at most 2 arguments");
        return NULL;
    }
    int is_blocking = count > 0 ? PyObject_IsTrue(args[0]) : 1;
    if (is_blocking < 0)
        return NULL;
    double seconds = count > 1 ? PyFloat_AsDouble(args[1]) : -1.0;
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    PY_TIMEOUT_T microseconds = -1; /* for ever */
    if (seconds != -1.0) {
        if (!(seconds >= 0.0 && seconds <= 1e9)) {
            PyErr_SetString(PyExc_ValueError, "timeout must be -1, or 0 to 1e9 seconds");
            return NULL;
        }
        microseconds = to_microseconds(seconds);
    }
    PyLockStatus status = PyThread_acquire_lock_timed(self->lock, 0, 0);
    double end = microseconds < 0 ? 0.0 : now() + seconds;
    while (status != PY_LOCK_ACQUIRED && is_blocking && microseconds != 0) {
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->lock, microseconds, 1);
        Py_END_ALLOW_THREADS
        if (status != PY_LOCK_INTR)
            break;
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (microseconds > 0)
            microseconds = to_microseconds(end - now());
    }
    if (status != PY_LOCK_ACQUIRED)
        Py_RETURN_FALSE;
    atomic_store(&self->is_released, false);
    Py_RETURN_TRUE;
}

static PyMethodDef semaphore_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))semaphore_acquire, METH_FASTCALL, NULL},
    {"release", (PyCFunction)semaphore_release, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot semaphore_slots[] = {
    {Py_tp_doc, "A binary semaphore, taken at first; see speedups.PySemaphore."},
    {Py_tp_new, semaphore_new},
    {Py_tp_dealloc, semaphore_dealloc},
    {Py_tp_methods, semaphore_methods},
    {0, NULL},
};

static PyType_Spec semaphore_spec = {
    .name = "tellurio_sync._speedups.Semaphore",
    .basicsize = sizeof(Semaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = semaphore_slots,
};

/* --- Receiver -------------------------------------------------------------------------------------- */

enum { READABLE = 1, WOKEN = 2 }; /* as in readiness.py */

typedef struct {
    PyObject_HEAD
    int fd;
    int wake_fd;
    Py_ssize_t size; /* of the buffer */
    char *buffer;
    bool is_in_use;
} Receiver;

static PyObject *receiver_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    int fd, wake_fd;
    Py_ssize_t size;
    static char *names[] = {"fd", "wake_fd", "size", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iin:Receiver", names, &fd, &wake_fd, &size))
        return NULL;
    if (fd < 0 || wake_fd < 0 || size <= 0) { /* poll() would wait for a negative descriptor for ever */
        PyErr_SetString(PyExc_ValueError, "fd and wake_fd must not be negative, and size must be positive");
        return NULL;
    }
    Receiver *self = (Receiver *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->fd = fd;
    self->wake_fd = wake_fd;
    self->size = size;
    self->buffer = PyMem_Malloc(size);
    if (self->buffer == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void receiver_dealloc(Receiver *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->buffer);
    type->tp_free(self);
    Py_DECREF(type);
}

static void forget_wakeups(Semaphore **wakeups, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        Py_DECREF(wakeups[i]);
    PyMem_Free(wakeups);
}

/* Take the semaphores out of the list; NULL with an error set, and the list unchanged.
   They are not put into a tuple or a list: to make one can start the garbage collector, which can run any code. */
static Semaphore **take_wakeups(PyTypeObject *semaphore_type, PyObject *list, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!Py_IS_TYPE(PyList_GET_ITEM(list, i), semaphore_type)) {
            PyErr_SetString(PyExc_TypeError, "wakeups must be semaphores of this module");
            return NULL;
        }
    }
    Semaphore **wakeups = PyMem_New(Semaphore *, count);
    if (wakeups == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        wakeups[i] = (Semaphore *)Py_NewRef(PyList_GET_ITEM(list, i));
    if (PyList_SetSlice(list, 0, count, NULL) < 0) {
        forget_wakeups(wakeups, count);
        return NULL;
    }
    return wakeups;
}

static int to_milliseconds(PyObject *timeout, int *milliseconds)
{
    if (timeout == Py_None) {
        *milliseconds = -1;
        return 0;
    }
    double wanted = PyFloat_AsDouble(timeout) * 1e3;
    if (PyErr_Occurred())
        return -1;
    /* Rounded up, because a loop that wakes a little early would turn once in vain. NaN counts as zero. */
    *milliseconds = wanted > 0 ? (wanted < INT_MAX ? (int)ceil(wanted) : INT_MAX) : 0;
    return 0;
}

static PyObject *receiver_receive(Receiver *self, PyTypeObject *defining_class, PyObject *const *args, Py_ssize_t count,
                                  PyObject *names)
{
    State *state = PyType_GetModuleState(defining_class);
    int milliseconds, watches_writes;
    if (count != 3 || (names != NULL && PyTuple_GET_SIZE(names)) || !PyList_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "receive(timeout, wakeups, watches_writes) with a list of wakeups");
        return NULL;
    }
    if (to_milliseconds(args[0], &milliseconds) < 0 || (watches_writes = PyObject_IsTrue(args[2])) < 0)
        return NULL;
    if (self->is_in_use) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is receiving");
        return NULL;
    }
    Semaphore **wakeups = NULL;
    Py_ssize_t wakeup_count = PyList_GET_SIZE(args[1]);
    if (wakeup_count && (wakeups = take_wakeups(state->semaphore_type, args[1], wakeup_count)) == NULL)
        return NULL;

    struct pollfd fds[2] = {
        {.fd = self->fd, .events = (short)(watches_writes ? POLLIN | POLLOUT : POLLIN)},
        {.fd = self->wake_fd, .events = POLLIN},
    };
    Py_ssize_t received = -1;
    int found, error;
    self->is_in_use = true;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < wakeup_count; i++)
        release(wakeups[i]);
    found = poll(fds, 2, milliseconds);
    error = found < 0 ? errno : 0;
    /* All flags but POLLOUT, because reading reports errors as well. */
    if (found > 0 && (fds[0].revents & ~POLLOUT)) {
        received = recv(self->fd, self->buffer, (size_t)self->size, 0);
        error = received < 0 ? errno : 0;
    }
    Py_END_ALLOW_THREADS
    PyObject *data = received < 0 ? NULL : PyBytes_FromStringAndSize(self->buffer, received);
    self->is_in_use = false; /* from here on Python code may run, and another thread may overwrite the buffer */
    forget_wakeups(wakeups, wakeup_count);

    if (received >= 0 && data == NULL)
        return NULL;
    if (error == EINTR && PyErr_CheckSignals() < 0)
        return NULL;
    int ready = 0;
    if (found > 0 && fds[1].revents)
        ready |= WOKEN;
    if (error == EINTR || error == EAGAIN || error == EWOULDBLOCK)
        return Py_BuildValue("iO", ready, Py_None);
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (data != NULL)
        return Py_BuildValue("iN", ready | READABLE, data);
    return Py_BuildValue("iO", ready, Py_None);
}

static PyMethodDef receiver_methods[] = {
    {"receive", (PyCFunction)(void (*)(void))receiver_receive, METH_METHOD | METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot receiver_slots[] = {
    {Py_tp_doc, "Waits for a socket and reads from it; see readiness.Receiver."},
    {Py_tp_new, receiver_new},
    {Py_tp_dealloc, receiver_dealloc},
    {Py_tp_methods, receiver_methods},
    {0, NULL},
};

static PyType_Spec receiver_spec = {
    .name = "tellurio_sync._speedups.Receiver",
    .basicsize = sizeof(Receiver),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = receiver_slots,
};

/* --- frames: RFC 6455 §5.2 -------------------------------------------------------------------------- */

enum { WHOLE_TEXT = 0x81, MASKED = 0x80, MASK_SIZE = 4, LONGEST_HEAD = 14 };

/* Write the head of a masked whole text frame, without its mask; return its size. */
static Py_ssize_t write_head(unsigned char *head, uint64_t size)
{
    head[0] = WHOLE_TEXT;
    if (size < 126) {
        head[1] = (unsigned char)(MASKED | size);
        return 2;
    }
    int size_bytes = size < 65536 ? 2 : 8;
    head[1] = MASKED | (size_bytes == 2 ? 126 : 127);
    for (int i = 0; i < size_bytes; i++)
        head[2 + i] = (unsigned char)(size >> (8 * (size_bytes - 1 - i)));
    return 2 + size_bytes;
}

static void copy_masked(char *to, const char *from, Py_ssize_t size, const char *mask)
{
    uint64_t twice; /* the mask, for eight bytes at a time */
    memcpy(&twice, mask, 4);
    memcpy((char *)&twice + 4, mask, 4);
    Py_ssize_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, from + i, 8);
        word ^= twice;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++)
        to[i] = from[i] ^ mask[i & 3];
}

static PyObject *masked_frame(PyObject *text, const char *mask)
{
    Py_ssize_t size;
    const char *content = PyUnicode_AsUTF8AndSize(text, &size);
    if (content == NULL)
        return NULL;
    unsigned char head[LONGEST_HEAD];
    Py_ssize_t head_size = write_head(head, (uint64_t)size);
    memcpy(head + head_size, mask, MASK_SIZE);
    head_size += MASK_SIZE;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, head_size + size);
    if (frame == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(frame);
    memcpy(to, head, (size_t)head_size);
    copy_masked(to + head_size, content, size, mask);
    return frame;
}

static PyObject *encode_texts(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyList_CheckExact(args[0]) || !PyBytes_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "encode_texts(texts, masks) with a list of str, and bytes");
        return NULL;
    }
    PyObject *texts = args[0];
    Py_ssize_t size = PyList_GET_SIZE(texts);
    if (size > PyBytes_GET_SIZE(args[1]) / MASK_SIZE) {
        PyErr_SetString(PyExc_ValueError, "each text needs a mask of 4 bytes");
        return NULL;
    }
    const char *masks = PyBytes_AS_STRING(args[1]);
    PyObject *frames = PyList_New(size);
    /* To make a list can start the garbage collector, which can run any code; so can an error in a text. So the list of
       texts may be shorter now, and each text must be held. */
    for (Py_ssize_t i = 0; frames != NULL && i < size; i++) {
        PyObject *text = Py_NewRef(i < PyList_GET_SIZE(texts) ? PyList_GET_ITEM(texts, i) : Py_None);
        PyObject *frame = NULL;
        if (PyUnicode_Check(text))
            frame = masked_frame(text, masks + MASK_SIZE * i);
        else
            PyErr_Format(PyExc_TypeError, "a text is a str, not %.100s", Py_TYPE(text)->tp_name);
        Py_DECREF(text);
        if (frame == NULL)
            Py_CLEAR(frames);
        else
            PyList_SET_ITEM(frames, i, frame);
    }
    return frames;
}

/* Append the whole text messages at the beginning of `data`, none longer than `room`, to `texts`. Returns the offset of
   the first frame that is something else, not whole, or not valid: the Python code handles it and finds the error. */
static PyObject *split_texts(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyBytes_CheckExact(args[0]) || !PyList_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "split_texts(data, room, texts) with bytes, and a list");
        return NULL;
    }
    Py_ssize_t room = PyNumber_AsSsize_t(args[1], NULL); /* a larger number than fits counts as the largest that fits */
    if (room == -1 && PyErr_Occurred())
        return NULL;
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    Py_ssize_t end = PyBytes_GET_SIZE(args[0]);
    Py_ssize_t position = 0;
    while (end - position >= 2 && data[position] == WHOLE_TEXT) {
        Py_ssize_t size = data[position + 1];
        Py_ssize_t start = position + 2;
        if (size == 126 && end - start >= 2) {
            size = data[start] << 8 | data[start + 1];
            start += 2;
            if (size < 126)
                break;
        } else if (size > 125) {
            break;
        }
        if (size > room || size > end - start)
            break;
        PyObject *text = PyUnicode_DecodeUTF8((const char *)data + start, size, NULL);
        if (text == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                return NULL;
            PyErr_Clear();
            break;
        }
        int failure = PyList_Append(args[2], text);
        Py_DECREF(text);
        if (failure)
            return NULL;
        position = start + size;
    }
    return PyLong_FromSsize_t(position);
}

/* --- the module ------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"encode_texts", (PyCFunction)(void (*)(void))encode_texts, METH_FASTCALL, NULL},
    {"split_texts", (PyCFunction)(void (*)(void))split_texts, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int fill_module(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (add_type(module, &semaphore_spec, &state->semaphore_type) < 0)
        return -1;
    return add_type(module, &receiver_spec, &state->receiver_type);
}

static int traverse_module(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->semaphore_type);
    Py_VISIT(state->receiver_type);
    return 0;
}

static int clear_module(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->semaphore_type);
    Py_CLEAR(state->receiver_type);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill_module},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "The hottest steps of a call, in C.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
};

PyMODINIT_FUNC PyInit__speedups(void)
{
    return PyModuleDef_Init(&module_definition);
}
