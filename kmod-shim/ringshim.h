/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT OR Apache-2.0 */
/*
 * The register map of a ringweir FIFO device, and the ioctls of ringshim.ko. REGISTERS.md explains
 * the map, README.md the ioctls. kmod-shim/device/src/map.rs is the same map in Rust;
 * kmod-shim/device/tests/fifo.rs checks that the two agree.
 *
 * All registers are 32 bits wide, little-endian, and accessed 32 bits at a time.
 */
#ifndef RINGSHIM_H
#define RINGSHIM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define RINGSHIM_MAGIC		0x4f464952	/* "RIFO" */
#define RINGSHIM_VERSION	0x00010000	/* major << 16 | minor of the map */

#define RINGSHIM_FIFO_MIN	(1u << 10)
#define RINGSHIM_FIFO_MAX	(1u << 20)
#define RINGSHIM_CHANNELS_MAX	32
#define RINGSHIM_REGISTERS	0x2000		/* two pages of registers, then FIFO memory */

/* What the device is: constant as long as it exists. */
struct ringshim_identity {
	__le32 magic;			/* 0x000 RINGSHIM_MAGIC */
	__le32 version;			/* 0x004 RINGSHIM_VERSION */
	__le32 device_id;		/* 0x008 the kind of board; the maker chooses it */
	__le32 features;		/* 0x00c RINGSHIM_HAS_* */
	__le32 fifo_offset;		/* 0x010 start of the first FIFO: a multiple of 4096 */
	__le32 fifo_bytes;		/* 0x014 of each: a power of two, FIFO_MIN .. FIFO_MAX */
	__le32 max_datagram;		/* 0x018 longest payload; fits the FIFO with its header */
	__le32 channels;		/* 0x01c FIFOs without gaps, 1 .. CHANNELS_MAX */
	__le32 rate;			/* 0x020 FIFO bytes per second by design, 0 = unknown */
	__le32 reserved[7];
};

#define RINGSHIM_HAS_INTERRUPT	(1u << 0)	/* raises interrupts */
#define RINGSHIM_HAS_TIME	(1u << 1)	/* entries have a device time */
#define RINGSHIM_HAS_DATE	(1u << 2)	/* that time is CLOCK_REALTIME: ns since 1970 */

/* Written by the device. */
struct ringshim_status {
	__le32 status;			/* 0x040 RINGSHIM_IS_* */
	__le32 interrupt_status;	/* 0x044 RINGSHIM_IRQ_*: interrupt cause, also on INTx */
	/* Bit n: look at channel n. May be set for an empty channel, never clear for any other. */
	__le32 ready;			/* 0x048 */
	__le32 time_low;		/* 0x04c device time, ns; reading it latches time_high */
	__le32 time_high;		/* 0x050 */
	__le32 reserved[11];
};

#define RINGSHIM_IS_RUNNING	(1u << 0)
#define RINGSHIM_IS_RESETTING	(1u << 1)

#define RINGSHIM_IRQ_DATA	(1u << 0)

/* Written by the consumer. */
struct ringshim_control {
	__le32 control;			/* 0x080 RINGSHIM_DO_* */
	__le32 interrupt_mask;		/* 0x084 RINGSHIM_IRQ_*: 1 = interrupt */
	__le32 interrupt_clear;		/* 0x088 write 1 to clear a bit of interrupt_status */
	__le32 doorbell;		/* 0x08c any write: read control now */
	__le32 reserved[12];
};

#define RINGSHIM_DO_RUN		(1u << 0)	/* 0: stop storing datagrams */
/* Empty everything, counters to 0. The consumer holds it until IS_RESETTING, then clears it. */
#define RINGSHIM_DO_RESET	(1u << 1)

/*
 * One channel: 128 bytes, two cache lines. The device writes the first one, the consumer the
 * second one.
 */
struct ringshim_channel {
	/* Bytes put in so far, modulo 2^32. The position in the FIFO is this modulo fifo_bytes. */
	__le32 producer;		/* +0x00 */
	__le32 produced;		/* +0x04 datagrams made, including lost ones */
	__le32 lost;			/* +0x08 datagrams it lost because the FIFO was full */
	__le32 lost_bytes;		/* +0x0c their payload bytes */
	__le32 reserved0[12];
	__le32 consumer;		/* +0x40 bytes taken out so far, modulo 2^32 */
	/* For the next consumer: the sequence expected next, and the accounted part of `lost`. */
	__le32 next_sequence;		/* +0x44 */
	__le32 lost_reported;		/* +0x48 */
	__le32 reserved1[13];
};

struct ringshim_registers {
	struct ringshim_identity identity;			/* 0x0000 */
	struct ringshim_status status;				/* 0x0040 */
	struct ringshim_control control;			/* 0x0080 */
	__le32 reserved[976];
	struct ringshim_channel channel[RINGSHIM_CHANNELS_MAX];	/* 0x1000 */
};

/*
 * The header of every datagram in a FIFO, at a multiple of 8. After it come the device time (8
 * bytes, if HAS_TIME), the payload, and padding up to a multiple of 8. At the end of the FIFO an
 * entry continues at its start.
 */
struct ringshim_entry {
	__le32 mark;			/* RINGSHIM_MARK */
	__le32 length;			/* payload bytes */
	__le32 sequence;		/* number in its channel, from 0; lost datagrams count */
	__le32 lost;			/* `lost` of the channel when this one was stored */
};

#define RINGSHIM_MARK		0x4d474452	/* "RDGM" */

/* What ringshim.ko reports about a device. */
struct ringshim_info {
	__u32 abi;			/* RINGSHIM_ABI */
	__u32 kind;			/* RINGSHIM_KIND_* */
	__u64 window_bytes;		/* mmap from offset 0: registers, then FIFO memory */
	__u32 interrupts;		/* RINGSHIM_INTERRUPTS_* */
	__u32 reserved0;
	struct ringshim_identity identity;	/* read once, and checked */
	char bus_id[32];		/* "0000:00:04.0" */
	__u32 reserved1[6];
};

#define RINGSHIM_ABI			1
#define RINGSHIM_KIND_FIFO		1	/* the map is in the memory of the device */
#define RINGSHIM_KIND_DMA		2	/* the map is in main memory; the device uses DMA */
#define RINGSHIM_INTERRUPTS_NONE	0
#define RINGSHIM_INTERRUPTS_INTX	1
#define RINGSHIM_INTERRUPTS_MSI		2
#define RINGSHIM_INTERRUPTS_MSIX	3

#define RINGSHIM_IOC_INFO	_IOR('w', 0x80, struct ringshim_info)
#define RINGSHIM_IOC_START	_IO('w', 0x81)	/* start the device */
#define RINGSHIM_IOC_STOP	_IO('w', 0x82)	/* stop it; the FIFO keeps its content */
#define RINGSHIM_IOC_DOORBELL	_IO('w', 0x83)	/* make the device read control */
/* FIONREAD: payload bytes of the next datagram, which read(2) needs; 0 if there is none. */

#if defined(__KERNEL__) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L)
#include <linux/stddef.h>
#ifdef __KERNEL__
#define ringshim_assert(what) static_assert(what)
#else
#include <stddef.h>
#define ringshim_assert(what) _Static_assert(what, #what)
#endif
ringshim_assert(sizeof(struct ringshim_registers) == RINGSHIM_REGISTERS);
ringshim_assert(offsetof(struct ringshim_registers, status) == 0x40);
ringshim_assert(offsetof(struct ringshim_registers, control) == 0x80);
ringshim_assert(offsetof(struct ringshim_registers, channel) == 0x1000);
ringshim_assert(sizeof(struct ringshim_channel) == 0x80);
ringshim_assert(offsetof(struct ringshim_channel, consumer) == 0x40);
ringshim_assert(sizeof(struct ringshim_entry) == 16);
ringshim_assert(sizeof(struct ringshim_info) == 144);
#endif

#endif
