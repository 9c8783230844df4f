/* Counts what a process asks the kernel to bring to the medium before it goes on: calls that sync,
 * and writes to files that were opened to be synced by every write, as LMDB opens its own for meta
 * pages. Each costs one relaxed addition, each other write a look into a table. Loaded with
 * LD_PRELOAD; `resources.py` reads the counter.
 *
 * Not seen: system calls made without the C library's functions, by `syscall` or io_uring; and
 * synchronous files whose descriptor was duplicated, or made so by `fcntl`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

unsigned long long benchmarks_sync_count = 0;

/* By file descriptor: whether every write to it is a sync. Higher numbers are not watched. */
#define WATCHED 65536
static unsigned char synchronous[WATCHED];

static void count(void)
{
    __atomic_fetch_add(&benchmarks_sync_count, 1, __ATOMIC_RELAXED);
}

static int is_synchronous(int file)
{
    return file >= 0 && file < WATCHED && synchronous[file];
}

static int remember(int file, int flags)
{
    /* O_SYNC includes the bit of O_DSYNC. */
    if (file >= 0 && file < WATCHED) synchronous[file] = (flags & O_DSYNC) != 0;
    return file;
}

/* The C library's own function, looked up once: RTLD_NEXT skips this file. */
#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        NEXT(name); \
        MODE(flags, mode) \
        return remember(next(path, flags, mode), flags); \
    }

#define OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) \
    { \
        NEXT(name); \
        MODE(flags, mode) \
        return remember(next(directory, path, flags, mode), flags); \
    }

#define PWRITE(name, offset_type) \
    ssize_t name(int file, const void *data, size_t size_bytes, offset_type offset) \
    { \
        NEXT(name); \
        if (is_synchronous(file)) count(); \
        return next(file, data, size_bytes, offset); \
    }

#define PWRITEV(name, offset_type) \
    ssize_t name(int file, const struct iovec *parts, int part_count, offset_type offset) \
    { \
        NEXT(name); \
        if (is_synchronous(file)) count(); \
        return next(file, parts, part_count, offset); \
    }

#define PWRITEV2(name, offset_type) \
    ssize_t name( \
        int file, const struct iovec *parts, int part_count, offset_type offset, int flags) \
    { \
        NEXT(name); \
        /* RWF_SYNC and RWF_DSYNC ask for one write what O_SYNC and O_DSYNC ask for all. */ \
        if (is_synchronous(file) || (flags & (RWF_SYNC | RWF_DSYNC))) count(); \
        return next(file, parts, part_count, offset, flags); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

ssize_t write(int file, const void *data, size_t size_bytes)
{
    NEXT(write);
    if (is_synchronous(file)) count();
    return next(file, data, size_bytes);
}

ssize_t writev(int file, const struct iovec *parts, int part_count)
{
    NEXT(writev);
    if (is_synchronous(file)) count();
    return next(file, parts, part_count);
}

int close(int file)
{
    NEXT(close);
    remember(file, 0);
    return next(file);
}

int fsync(int file)
{
    NEXT(fsync);
    count();
    return next(file);
}

int fdatasync(int file)
{
    NEXT(fdatasync);
    count();
    return next(file);
}

int syncfs(int file)
{
    NEXT(syncfs);
    count();
    return next(file);
}

int msync(void *address, size_t size_bytes, int flags)
{
    NEXT(msync);
    if (flags & MS_SYNC) count();
    return next(address, size_bytes, flags);
}

/* With SYNC_FILE_RANGE_WRITE alone it only starts the writing, and waits for nothing. */
int sync_file_range(int file, off64_t offset, off64_t size_bytes, unsigned int flags)
{
    NEXT(sync_file_range);
    if (flags & (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER)) count();
    return next(file, offset, size_bytes, flags);
}
