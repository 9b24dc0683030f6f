/* SPDX-License-Identifier: GPL-2.0 */
/* What the two parts of ringshim.ko share: shim.c, and dma.c, the device side of a DMA card. */
#ifndef SHIM_H
#define SHIM_H

#include <linux/cdev.h>
#include <linux/interrupt.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/wait.h>

#include "ringshim.h"

struct shim_dma {
	void *buffer;			/* the map, and behind it a page that is never mapped */
	dma_addr_t bus;
	spinlock_t lock;		/* what follows: the interrupt against START and STOP */
	bool running, busy, uploaded, drop;
	u32 producer, produced, lost, lost_bytes;	/* the map's are only written: user space can too */
};

/* One device. Its driver holds a reference, and so does the open file, which may outlive it. */
struct shim {
	struct device dev;
	struct cdev cdev;
	struct pci_dev *pdev;
	struct ringshim_info info;	/* what was found at probe, and is never read again */
	void __iomem *map;		/* registers, then FIFOs: in a BAR, or dma.buffer */
	phys_addr_t start;		/* of that BAR */
	u64 room;			/* in it */
	u32 fifo_offset;
	void __iomem *bar;		/* BAR 0 of ivshmem and of the DMA card, else NULL */
	struct shim_dma dma;
	unsigned long interrupts, spurious, wakeups, garbage;

	/*
	 * Held for reading to touch the device, for writing to change these three. It nests inside
	 * mmap_lock (faults): nothing may touch user memory while holding it.
	 */
	struct rw_semaphore lock;
	bool gone;			/* unplugged or unbound */
	struct address_space *mapping;	/* of the opener; NULL: it is not open */
	unsigned long started;		/* bit 0: by START, STOP, or the first read or poll */

	unsigned long blank;		/* the page that is mapped when the device has gone */
	struct mutex serial;		/* one read(2) at a time; taken before `lock` */
	void *bounce;			/* its datagram */
	wait_queue_head_t wait;
};

#define SHIM_AT(part, field) (offsetof(struct ringshim_registers, part) + \
			      offsetof(struct ringshim_##part, field))
#define SHIM_CHANNEL(n, field) (SHIM_AT(channel, field) + (n) * sizeof(struct ringshim_channel))
#define shim_get(shim, offset) readl((shim)->map + (offset))
#define shim_put(shim, offset, value) writel(value, (shim)->map + (offset))
/* In front of a payload: header and device time. */
#define shim_head(shim) ((shim)->info.features & RINGSHIM_HAS_TIME ? 24 : 16)

void shim_wake(struct shim *shim);
int shim_dma_probe(struct shim *shim);
void shim_dma_reset(struct shim *shim);
void shim_dma_control(struct shim *shim);
void shim_dma_stop(struct shim *shim);
irqreturn_t shim_dma_interrupt(struct shim *shim);

#endif
