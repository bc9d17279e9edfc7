/* The first process of a machine whose swap is compressed: swaps pages out whose content it tells, and stands still.
 *
 * It is told by the file /config, a line each: `module NAME` (from /modules, in this order), `write PATH TEXT`,
 * `swap DEVICE MIB`, `pages NUMBER`. To the console it writes `PAGE ADDRESS ENTRY CRC32 KIND` for each page, in
 * hexadecimal, ENTRY as /proc/PID/pagemap has it, and `MACHINE READY` at the end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PAGE = 4096, PAGEOUT = 21 };

static uint32_t crc32_of(const unsigned char *data, size_t size) {
  uint32_t crc = ~0u;
  for (size_t at = 0; at < size; at++) {
    crc ^= data[at];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

static void say(const char *what, const char *of) { printf("INIT: %s: %s\n", what, of); }

static void write_to(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) say("cannot write", path);
  if (fd >= 0) close(fd);
}

static void load(const char *name) {
  char path[256];
  snprintf(path, sizeof path, "/modules/%s", name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || syscall(SYS_finit_module, fd, "", 0)) say("cannot load", name);
  if (fd >= 0) close(fd);
}

/* What mkswap(8) writes: a page with a version, the last page's number, and a mark at its end. */
static void turn_on(const char *device, size_t mib) {
  static unsigned char header[PAGE];
  uint32_t said[] = {1, (uint32_t)(mib * 256 - 1), 0};
  memcpy(header + 1024, said, sizeof said);
  memcpy(header + PAGE - 10, "SWAPSPACE2", 10);
  int fd = open(device, O_RDWR);
  if (fd < 0 || pwrite(fd, header, PAGE, 0) != PAGE || fsync(fd)) say("cannot format", device);
  if (fd >= 0) close(fd);
  if (swapon(device, 0)) say("cannot turn on", device);
}

static uint64_t noise(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  return *state ^= *state << 17;
}

static const char *fill(unsigned char *page, int number) {
  static const char *const kinds[] = {"text", "half", "noise", "same", "zeros", "sparse", "quarter", "text"};
  const char *kind = kinds[number % 8];
  uint64_t state = 0x9E3779B97F4A7C15u * (uint64_t)(number + 1);
  memset(page, 0, PAGE);
  if (!strcmp(kind, "zeros")) return kind;
  if (!strcmp(kind, "same")) {
    for (int at = 0; at < PAGE; at += 8) memcpy(page + at, &state, 8);
    return kind;
  }
  for (int at = 0; at < PAGE; at += 64) {
    char line[65];
    snprintf(line, sizeof line, "page %6d of kind %-8s at 0x%03x, known by heart..........\n", number, kind, at);
    memcpy(page + at, line, 64);
  }
  int noisy = !strcmp(kind, "noise") ? PAGE : !strcmp(kind, "half") ? 2048 + 64 * (number / 8 % 16) :
              !strcmp(kind, "quarter") ? 512 + 64 * (number / 8 % 16) : 0;
  for (int at = 0; at < noisy; at += 8) {
    uint64_t word = noise(&state);
    memcpy(page + at, &word, 8);
  }
  if (!strcmp(kind, "sparse")) memset(page + 64 * (number / 8 % 32), 0, 1024 + 8 * (number % 61));
  return kind;
}

int main(void) {
  char line[512];
  int pages = 256;
  mount("proc", "/proc", "proc", 0, "");
  mount("sysfs", "/sys", "sysfs", 0, "");
  mount("devtmpfs", "/dev", "devtmpfs", 0, "");
  int console = open("/dev/console", O_RDWR);
  for (int fd = 0; fd < 3; fd++) dup2(console, fd);
  setvbuf(stdout, 0, _IOLBF, 0);
  FILE *config = fopen("/config", "r");
  while (config && fgets(line, sizeof line, config)) {
    char *word = strtok(line, " \n"), *first = strtok(0, " \n"), *second = strtok(0, "\n");
    if (!word || !first) continue;
    if (!strcmp(word, "module")) load(first);
    if (!strcmp(word, "write")) write_to(first, second);
    if (!strcmp(word, "swap")) turn_on(first, strtoul(second, 0, 10));
    if (!strcmp(word, "pages")) pages = atoi(first);
  }
  size_t size = (size_t)pages * PAGE;
  unsigned char *area = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(area, size, MADV_NOHUGEPAGE);
  uint32_t *crc = calloc(pages, sizeof *crc);
  const char **kind = calloc(pages, sizeof *kind);
  for (int number = 0; number < pages; number++) {
    kind[number] = fill(area + (size_t)number * PAGE, number);
    crc[number] = crc32_of(area + (size_t)number * PAGE, PAGE);
  }
  for (int again = 0; again < 5; again++) madvise(area, size, PAGEOUT), usleep(200000);
  int pagemap = open("/proc/self/pagemap", O_RDONLY);
  for (int number = 0; number < pages; number++) {
    unsigned char *page = area + (size_t)number * PAGE;
    uint64_t entry = 0;
    pread(pagemap, &entry, 8, (uintptr_t)page / PAGE * 8);
    printf("PAGE %lx %lx %x %s\n", (unsigned long)page, (unsigned long)entry, crc[number], kind[number]);
  }
  printf("MACHINE READY\n");
  for (;;) pause();
}
