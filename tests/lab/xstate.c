/*
 * Lets User-mode Linux run on processors with more registers than it knows.
 *
 * It saves and restores a guest's processes' extended registers (NT_X86_XSTATE, Intel SDM volume 1, chapter 13) in a
 * buffer that is as long as those it was written for. A kernel gives as much as fits, but takes only the whole area: where
 * that is longer, as with AMX (11,008 bytes), restoring fails and the guest's first process dies. Preloaded, this restores
 * the whole area: what was saved, and the components behind it in their initial state. A guest does not use those, since
 * its kernel cannot ask for them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

/* The header lies behind the legacy area; its first eight bytes, XSTATE_BV, have a bit for each component that follows. */
#define HEADER 512
/* The first component of AMX; it and what comes after it lie behind all that this User-mode Linux knows. */
#define FIRST_UNKNOWN 17
/* More than any processor has. */
#define LONGEST (64 * 1024)

typedef long (*ptrace_function)(int, ...);

static long restore(ptrace_function next, long pid, struct iovec *saved)
{
	static _Alignas(64) unsigned char whole[LONGEST];
	static size_t length;
	uint64_t components;
	struct iovec area = { whole, sizeof whole };

	if (length == 0) {
		if (next(PTRACE_GETREGSET, pid, (long)NT_X86_XSTATE, &area) < 0)
			return -1;
		length = area.iov_len;
	}
	if (saved->iov_len >= length)
		return next(PTRACE_SETREGSET, pid, (long)NT_X86_XSTATE, saved);
	if (saved->iov_len < HEADER + 64) {
		errno = EINVAL;
		return -1;
	}
	memset(whole, 0, length);
	memcpy(whole, saved->iov_base, saved->iov_len);
	memcpy(&components, whole + HEADER, sizeof components);
	components &= (UINT64_C(1) << FIRST_UNKNOWN) - 1;
	memcpy(whole + HEADER, &components, sizeof components);
	area.iov_len = length;
	return next(PTRACE_SETREGSET, pid, (long)NT_X86_XSTATE, &area);
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_function next;
	va_list arguments;
	long pid, address;
	void *data;

	if (!next) {
		next = (ptrace_function)(uintptr_t)dlsym(RTLD_NEXT, "ptrace");
		if (!next)
			abort();
	}
	va_start(arguments, request);
	pid = va_arg(arguments, int);
	address = va_arg(arguments, long);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (request == PTRACE_SETREGSET && address == NT_X86_XSTATE)
		return restore(next, pid, data);
	return next(request, (int)pid, address, data);
}
