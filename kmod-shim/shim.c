// SPDX-License-Identifier: GPL-2.0
/*
 * ringshim: gives a device with the register map of ringshim.h to one process, normally ringd.
 *
 *	# insmod ringshim.ko
 *	# dd if=/dev/ringshim0 bs=1024 count=1 | hexdump -C	# one read, one datagram
 *	# grep . /sys/class/ringshim/ringshim0/interrupts
 *	# ringd run --name fpga0 --source shim:/dev/ringshim0	# a second process gets EBUSY
 */
#include <linux/cdev.h>
#include <linux/dma-map-ops.h>
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <asm/ioctls.h>

#include "ringshim.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define vm_flags_mod(vma, set, clear) ((vma)->vm_flags = ((vma)->vm_flags | (set)) & ~(clear))
#endif

#define SHIM_MINORS	64
#define SHIM_BAR	2		/* with the register map */
#define IVSHMEM_DOORBELL	12		/* in BAR 0: peer << 16 | vector */

/*
 * The DMA card: QEMU's "edu" (1234:11e8), which copies parts of its 4 KiB of memory into main
 * memory and then interrupts. It does not have the register map: the module keeps the map in a
 * coherent buffer and emulates the device, but the card writes the payload into the FIFO.
 *
 * Its memory is filled, also by DMA, with 32-bit little-endian words that count from 0. Datagram s
 * is LENGTH bytes of them from OFFSET(s). The FIFO holds one entry: the card makes the next one
 * when the consumer has found the FIFO empty. So no entry wraps around, nothing is lost, and
 * nothing that user space writes into the map decides where the card writes.
 */
#define EDU_IRQ_STATUS	0x24
#define EDU_IRQ_CLEAR	0x64
#define EDU_DMA		0x80	/* from, to, count, command: 8 bytes from each to the next */
#define EDU_GIVE	0x5	/* go, to the card, interrupt */
#define EDU_FETCH	0x7	/* go, from the card, interrupt */
#define EDU_MEMORY	0x40000

#define SCRATCH		PAGE_ALIGN(RINGSHIM_REGISTERS + ENTRY)
#define PATTERN		4088	/* not to the end of its memory: its range check is off by one */
#define ENTRY		RINGSHIM_FIFO_MIN
#define LENGTH		(ENTRY - (u32)sizeof(struct ringshim_entry))
#define OFFSET(s)	(8 * ((s) * 13 % ((PATTERN - LENGTH) / 8 + 1)))

static dev_t shim_devt;
static DEFINE_IDA(shim_minors);

/* One device. The driver holds a reference, and so does an open file, which may outlive it. */
struct shim {
	struct device dev;
	struct cdev cdev;
	struct pci_dev *pdev;
	struct ringshim_info info;	/* read at probe, and never again */
	void __iomem *map;		/* registers, then FIFOs: in a BAR, or `buffer` */
	phys_addr_t start;		/* of the map */
	void __iomem *bar;		/* BAR 0 of ivshmem and of the DMA card, or NULL */

	/* For a DMA card only. */
	void *buffer;			/* the map, then a page that is never mapped */
	dma_addr_t bus;			/* its bus address */
	bool uploaded;			/* the pattern, in the first transfer */
	unsigned long busy;		/* bit 0: a transfer is under way */

	unsigned long interrupts, spurious, wakeups, garbage;

	/*
	 * Held for reading to access the device, for writing to change the three fields below. It
	 * nests inside mmap_lock (page faults), so its holder must not access user memory.
	 */
	struct rw_semaphore lock;
	bool gone;			/* unplugged or unbound */
	struct address_space *mapping;	/* of the open file; NULL: not open */
	bool started;			/* by START, STOP, or the first read or poll */

	void *blank;			/* the page that is mapped when the device is gone */
	struct mutex serial;		/* one read(2) at a time; taken before `lock` */
	__le32 *bounce;			/* the datagram being read */
	wait_queue_head_t wait;
};

#define SHIM_AT(part, field) offsetof(struct ringshim_registers, part.field)
#define SHIM_CHANNEL(n, field) SHIM_AT(channel[n], field)
#define shim_get(shim, offset) readl((shim)->map + (offset))
#define shim_put(shim, offset, value) writel(value, (shim)->map + (offset))
#define shim_is(shim, field) le32_to_cpu((shim)->info.identity.field)
/* 32 bits of a FIFO; the position wraps around at its end. */
#define shim_peek(shim, channel, at) readl((shim)->map + shim_is(shim, fifo_offset) + \
	(channel) * shim_is(shim, fifo_bytes) + ((at) & (shim_is(shim, fifo_bytes) - 1)))
/* Length of what precedes a payload: header and device time. */
#define shim_head(shim) (shim_is(shim, features) & RINGSHIM_HAS_TIME ? 24 : 16)

static void shim_wake(struct shim *shim)
{
	if (wq_has_sleeper(&shim->wait)) {
		shim->wakeups++;
		wake_up_all(&shim->wait);
	}
}

static void dma_fetch(struct shim *shim)
{
	u32 to = shim->bus + RINGSHIM_REGISTERS + ENTRY - LENGTH;
	u32 fetch[] = { EDU_MEMORY, to, LENGTH, EDU_FETCH };
	u32 give[] = { shim->bus + SCRATCH, EDU_MEMORY, PATTERN, EDU_GIVE };
	u32 n;

	if (shim_get(shim, SHIM_AT(control, control)) != RINGSHIM_DO_RUN ||
	    test_and_set_bit(0, &shim->busy))
		return;
	/* A transfer may just have ended and stored its datagram. */
	n = shim_get(shim, SHIM_CHANNEL(0, producer)) - shim_get(shim, SHIM_CHANNEL(0, consumer));
	if (n) {
		clear_bit(0, &shim->busy);
		return;
	}
	fetch[0] += OFFSET(shim_get(shim, SHIM_CHANNEL(0, produced)));
	for (n = 0; n < ARRAY_SIZE(fetch); n++)
		writel(shim->uploaded ? fetch[n] : give[n], shim->bar + EDU_DMA + 8 * n);
}

/* The payload is stored: write the header in front of it, then move `producer`. */
static void dma_done(struct shim *shim)
{
	u32 sequence = shim_get(shim, SHIM_CHANNEL(0, produced));
	u32 n, head[] = { RINGSHIM_MARK, LENGTH, sequence, 0 };

	if (shim->uploaded) {
		for (n = 0; n < ARRAY_SIZE(head); n++)
			shim_put(shim, RINGSHIM_REGISTERS + 4 * n, head[n]);
		shim_put(shim, SHIM_AT(status, ready), 1);
		shim_put(shim, SHIM_CHANNEL(0, produced), sequence + 1);
		shim_put(shim, SHIM_CHANNEL(0, producer), ENTRY * (sequence + 1));
	}
	shim->uploaded = true;
	clear_bit_unlock(0, &shim->busy);	/* after `producer`: dma_fetch() checks both */
}

static void dma_reset(struct shim *shim)
{
	static const u32 identity[] = {
		RINGSHIM_MAGIC, RINGSHIM_VERSION, 0x11e8, RINGSHIM_HAS_INTERRUPT,
		RINGSHIM_REGISTERS, ENTRY, LENGTH, 1, 10 * ENTRY /* a transfer takes 100 ms */
	};
	u32 n;

	memset(shim->buffer, 0, SCRATCH);
	for (n = 0; n < ARRAY_SIZE(identity); n++)
		shim_put(shim, 4 * n, identity[n]);
	for (n = 0; n < PATTERN / 4; n++)
		shim_put(shim, SCRATCH + 4 * n, n);
}

/*
 * The interrupt's half of the wake handshake. An interrupt means "look", never "one datagram". It
 * is cleared before sleepers are woken, because they may make the device raise the next one.
 */
static irqreturn_t shim_interrupt(int irq, void *cookie)
{
	struct shim *shim = cookie;
	u32 why = readl(shim->buffer ? shim->bar + EDU_IRQ_STATUS :
				       shim->map + SHIM_AT(status, interrupt_status));

	if (!why && shim->info.interrupts == RINGSHIM_INTERRUPTS_INTX)
		return IRQ_NONE;	/* of another device on the same line */
	shim->interrupts++;
	if (shim->buffer ? !shim->busy : !shim_get(shim, SHIM_AT(control, interrupt_mask)))
		shim->spurious++;
	shim_put(shim, SHIM_AT(control, interrupt_mask), 0);
	writel(why, shim->buffer ? shim->bar + EDU_IRQ_CLEAR :
				   shim->map + SHIM_AT(control, interrupt_clear));
	if (shim->busy)
		dma_done(shim);
	shim_wake(shim);
	return IRQ_HANDLED;
}

/* Makes the device read `control`. For a DMA card the module does the device's part here. */
static void shim_doorbell(struct shim *shim)
{
	u32 control = shim_get(shim, SHIM_AT(control, control));

	shim_put(shim, SHIM_AT(control, doorbell), 1);
	if (shim->bar && !shim->buffer)
		writel(0, shim->bar + IVSHMEM_DOORBELL);	/* vector 0 of peer 0, the device */
	if (!shim->buffer)
		return;
	/* A transfer under way ends and is stored; but another thread may START meanwhile. */
	if (control != RINGSHIM_DO_RUN)
		wait_event_timeout(shim->wait, !test_bit(0, &shim->busy), HZ);
	if (control & RINGSHIM_DO_RESET)
		dma_reset(shim);
	shim_put(shim, SHIM_AT(control, control), control);
	/* `control` and `status` have the same bits. */
	shim_put(shim, SHIM_AT(status, status),
		 control & RINGSHIM_DO_RESET ?: control & RINGSHIM_DO_RUN);
}

/* Called when no process is left that could START it. The map of a DMA card is reset. */
static void shim_quiet(struct shim *shim)
{
	if (!wait_event_timeout(shim->wait, !test_bit(0, &shim->busy), HZ))
		pci_clear_master(shim->pdev);	/* it does not answer: no more DMA */
	shim_put(shim, SHIM_AT(control, interrupt_mask), 0);
	if (shim->buffer)
		dma_reset(shim);
}

static void shim_control(struct shim *shim, u32 control)
{
	WRITE_ONCE(shim->started, true);
	shim_put(shim, SHIM_AT(control, control), control);
	shim_doorbell(shim);
}

/* A device that is going away may still be opened: then every call returns an error. */
static int shim_open(struct inode *inode, struct file *file)
{
	struct shim *shim = container_of(inode->i_cdev, struct shim, cdev);

	if (cmpxchg(&shim->mapping, NULL, file->f_mapping))
		return -EBUSY;
	shim->started = false;
	file->private_data = shim;
	return nonseekable_open(inode, file);
}

/*
 * Called however the process ends. A mapping holds the file, so none is left. A FIFO device keeps
 * running and counts what it loses; a DMA device is reset for the next opener.
 */
static int shim_release(struct inode *inode, struct file *file)
{
	struct shim *shim = file->private_data;

	down_read(&shim->lock);
	if (!shim->gone)
		shim_quiet(shim);
	smp_store_release(&shim->mapping, NULL);	/* not while shim_remove() uses it */
	up_read(&shim->lock);
	return 0;
}

/* A datagram in a FIFO: its length, and the register values after it is taken out. */
struct found {
	u32 channel, at, length, next, lost, after;
};

/*
 * Finds the first datagram of the lowest channel that has one, or returns -EAGAIN. -EBADMSG means
 * garbage up to `after`; the sequence of the next datagram shows how many were lost.
 */
static int shim_next(struct shim *shim, struct found *found)
{
	u32 n, size;

	for (n = 0; n < shim_is(shim, channels); n++) {
		u32 producer = shim_get(shim, SHIM_CHANNEL(n, producer));
		u32 consumer = shim_get(shim, SHIM_CHANNEL(n, consumer));
		u32 level = producer - consumer;

		if (!level)
			continue;
		*found = (struct found) { n, consumer + shim_head(shim), 0,
					  shim_get(shim, SHIM_CHANNEL(n, next_sequence)),
					  shim_get(shim, SHIM_CHANNEL(n, lost_reported)),
					  producer };
		if (level > shim_is(shim, fifo_bytes) || (level | consumer) & 7)
			return -EBADMSG;
		found->length = shim_peek(shim, n, consumer + 4);
		size = ALIGN(shim_head(shim) + found->length, 8);
		if (shim_peek(shim, n, consumer) != RINGSHIM_MARK ||
		    found->length > shim_is(shim, max_datagram) || size > level)
			return -EBADMSG;
		found->next = shim_peek(shim, n, consumer + 8) + 1;
		found->lost = shim_peek(shim, n, consumer + 12);
		found->after = consumer + size;
		return 0;
	}
	return -EAGAIN;
}

/*
 * The consumer's half of the handshake: if all FIFOs are empty, it unmasks the interrupt and looks
 * again. If a datagram has arrived meanwhile, the interrupt stays unmasked, because another thread
 * may already sleep. A datagram that fits goes into the bounce buffer, 32 bits at a time.
 */
static int shim_look(struct shim *shim, struct found *found, size_t room)
{
	u32 n;
	int rc;

	down_read(&shim->lock);
	rc = shim->gone ? -EPIPE : shim_next(shim, found);
	if (rc == -EAGAIN) {
		/* A consumer that only reads or polls never calls START. STOP stays in effect. */
		if (!shim->started &&
		    !(shim_get(shim, SHIM_AT(status, status)) & RINGSHIM_IS_RUNNING))
			shim_control(shim, RINGSHIM_DO_RUN);
		shim_put(shim, SHIM_AT(control, interrupt_mask), RINGSHIM_IRQ_DATA);
		mb();	/* mask before `producer`: pairs with the barrier of the device */
		if (shim->buffer)
			dma_fetch(shim);
		rc = shim_next(shim, found);
	}
	if (!rc && found->length > room)
		rc = -EMSGSIZE;
	for (n = 0; !rc && n < found->length; n += 4)
		shim->bounce[n / 4] = cpu_to_le32(shim_peek(shim, found->channel, found->at + n));
	up_read(&shim->lock);
	return rc;
}

/* Reads one datagram; drops garbage. */
static ssize_t shim_read(struct file *file, char __user *to, size_t room, loff_t *at)
{
	struct shim *shim = file->private_data;
	bool wait = !(file->f_flags & O_NONBLOCK) && shim->info.interrupts;
	DEFINE_WAIT_FUNC(waiter, woken_wake_function);
	struct found found;
	ssize_t rc;

	if (mutex_lock_interruptible(&shim->serial))
		return -ERESTARTSYS;
	/* Queued before looking, so that wait_woken() returns after a wake-up in between. */
	add_wait_queue(&shim->wait, &waiter);
	while ((rc = shim_look(shim, &found, room)) == -EAGAIN && wait && !signal_pending(current))
		wait_woken(&waiter, TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
	remove_wait_queue(&shim->wait, &waiter);
	if (rc == -EAGAIN && wait)
		rc = -ERESTARTSYS;
	if (!rc)
		rc = copy_to_user(to, shim->bounce, found.length) ? -EFAULT : found.length;
	down_read(&shim->lock);
	if ((rc >= 0 || rc == -EBADMSG) && !shim->gone) {
		shim->garbage += rc == -EBADMSG;
		shim_put(shim, SHIM_CHANNEL(found.channel, next_sequence), found.next);
		shim_put(shim, SHIM_CHANNEL(found.channel, lost_reported), found.lost);
		mb();	/* its bytes are read before their room is freed */
		shim_put(shim, SHIM_CHANNEL(found.channel, consumer), found.after);
	}
	up_read(&shim->lock);
	mutex_unlock(&shim->serial);
	return rc;
}

static __poll_t shim_poll(struct file *file, poll_table *table)
{
	struct shim *shim = file->private_data;
	struct found found;
	int rc;

	poll_wait(file, &shim->wait, table);
	rc = shim_look(shim, &found, 0);
	return rc == -EAGAIN ? 0 : rc == -EPIPE ? EPOLLHUP | EPOLLERR : EPOLLIN | EPOLLRDNORM;
}

static long shim_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	struct shim *shim = file->private_data;
	int __user *to = (int __user *)arg;
	struct found found = { };
	int rc = 0;

	if (command == RINGSHIM_IOC_INFO)
		return copy_to_user(to, &shim->info, sizeof(shim->info)) ? -EFAULT : 0;
	if (command == FIONREAD) {
		rc = shim_look(shim, &found, 0);
		return rc == -EPIPE || rc == -EBADMSG ? rc : put_user(found.length, to);
	}
	down_read(&shim->lock);
	if (shim->gone)
		rc = -ENODEV;
	else if (command == RINGSHIM_IOC_START || command == RINGSHIM_IOC_STOP)
		shim_control(shim, command == RINGSHIM_IOC_START ? RINGSHIM_DO_RUN : 0);
	else if (command == RINGSHIM_IOC_DOORBELL)
		shim_doorbell(shim);
	else
		rc = -ENOTTY;
	up_read(&shim->lock);
	return rc;
}

/*
 * Maps page by page, at the first access, and not in mmap: only a mapping that is already linked
 * can be found and removed, and here it is. Also, a range that was remapped as a whole must not be
 * removed in parts.
 */
static vm_fault_t shim_fault(struct vm_fault *fault)
{
	struct shim *shim = fault->vma->vm_file->private_data;
	vm_fault_t rc;

	down_read(&shim->lock);
	rc = vmf_insert_pfn(fault->vma, fault->address, shim->gone ? PHYS_PFN(__pa(shim->blank)) :
			    PHYS_PFN(shim->start) + fault->pgoff);
	up_read(&shim->lock);
	return rc;
}

static const struct vm_operations_struct shim_vm_ops = { .fault = shim_fault };

static int shim_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct shim *shim = file->private_data;
	unsigned long pages = PAGE_ALIGN(shim->info.window_bytes) >> PAGE_SHIFT;

	if (!(vma->vm_flags & VM_MAYSHARE) || vma->vm_flags & VM_EXEC ||
	    vma->vm_pgoff >= pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	/*
	 * The device changes its memory, which must not be cached. The BAR of ivshmem and a
	 * coherent buffer are main memory, which the other side maps cached.
	 */
	if (!shim->bar)
		vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	vm_flags_mod(vma, VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	vma->vm_ops = &shim_vm_ops;
	return READ_ONCE(shim->gone) ? -ENODEV : 0;
}

static const struct file_operations shim_fops = {
	.owner = THIS_MODULE, .open = shim_open, .release = shim_release,
	.read = shim_read, .poll = shim_poll, .mmap = shim_mmap,
	.unlocked_ioctl = shim_ioctl, .compat_ioctl = compat_ptr_ioctl
};

#define SHIM_COUNTER(counter) \
static ssize_t counter##_show(struct device *dev, struct device_attribute *attr, char *to) \
{ \
	return sysfs_emit(to, "%lu\n", READ_ONCE(container_of(dev, struct shim, dev)->counter)); \
} \
static DEVICE_ATTR_RO(counter)
SHIM_COUNTER(interrupts);
SHIM_COUNTER(spurious);
SHIM_COUNTER(wakeups);
SHIM_COUNTER(garbage);

static struct attribute *shim_attrs[] = {
	&dev_attr_interrupts.attr, &dev_attr_spurious.attr,
	&dev_attr_wakeups.attr, &dev_attr_garbage.attr, NULL
};
ATTRIBUTE_GROUPS(shim);

/* Called when the driver is unbound and the last file closed. Until then the minor is in use. */
static void shim_free(struct device *dev)
{
	struct shim *shim = container_of(dev, struct shim, dev);

	if (dev->devt)
		ida_free(&shim_minors, MINOR(dev->devt));
	kvfree(shim->bounce);
	free_page((unsigned long)shim->blank);
	kfree(shim);
}

/* Nodes belong to root, mode 0600, until udev assigns the group: 60-ringshim.rules. */
static struct class shim_class = {
	.name = "ringshim", .dev_groups = shim_groups, .dev_release = shim_free
};

static void shim_put_device(void *dev)
{
	put_device(dev);
}

/* Maps registers and FIFOs. For a device in shim_ids, BAR 0 is needed as well. */
static int shim_map(struct shim *shim, bool listed)
{
	struct pci_dev *pdev = shim->pdev;
	struct device *dev = &pdev->dev;
	struct resource *bar = &pdev->resource[SHIM_BAR];

	shim->bar = listed ? pcim_iomap(pdev, 0, 0) : NULL;
	if (listed && !shim->bar)
		return -ENOMEM;
	if (shim->info.kind == RINGSHIM_KIND_DMA) {
		/* The buffer is ordinary memory, and mapped as such, only where DMA is coherent. */
		if (!dev_is_dma_coherent(dev) || dma_set_mask_and_coherent(dev, DMA_BIT_MASK(28)))
			return -ENODEV;
		shim->buffer = dmam_alloc_attrs(dev, SCRATCH + PAGE_SIZE, &shim->bus, GFP_KERNEL,
						DMA_ATTR_FORCE_CONTIGUOUS);
		if (!shim->buffer || is_vmalloc_addr(shim->buffer))
			return -ENOMEM;
		shim->start = virt_to_phys(shim->buffer);
		shim->map = (void __iomem __force *)shim->buffer;
		dma_reset(shim);
		return 0;
	}
	shim->start = bar->start;
	if (!PAGE_ALIGNED(bar->start) || resource_size(bar) < RINGSHIM_REGISTERS)
		return -ENODEV;
	if (listed)	/* ivshmem: it is main memory */
		shim->map = (void __iomem __force *)
			devm_memremap(dev, bar->start, resource_size(bar), MEMREMAP_WB);
	else
		shim->map = devm_ioremap_resource(dev, bar);
	return PTR_ERR_OR_ZERO((void __force *)shim->map);
}

/* Reads the identity once, and checks it. */
static int shim_identify(struct shim *shim)
{
	u64 room = shim->buffer ? SCRATCH : pci_resource_len(shim->pdev, SHIM_BAR);
	u32 offset, size, channels;

	__ioread32_copy(&shim->info.identity, shim->map, sizeof(shim->info.identity) / 4);
	offset = shim_is(shim, fifo_offset);
	size = shim_is(shim, fifo_bytes);
	channels = shim_is(shim, channels);
	shim->info.window_bytes = offset + (u64)channels * size;
	if (shim_is(shim, magic) == RINGSHIM_MAGIC &&
	    shim_is(shim, version) >> 16 == RINGSHIM_VERSION >> 16 &&
	    offset >= RINGSHIM_REGISTERS && offset % 4096 == 0 && is_power_of_2(size) &&
	    size >= RINGSHIM_FIFO_MIN && size <= RINGSHIM_FIFO_MAX &&
	    channels && channels <= RINGSHIM_CHANNELS_MAX &&
	    shim_is(shim, max_datagram) <= size - shim_head(shim) &&
	    PAGE_ALIGN(shim->info.window_bytes) <= room)
		return 0;
	dev_err(&shim->pdev->dev,
		"not ours: magic %#x, version %#x, %u FIFOs of %u bytes from %#x, "
		"datagrams of %u, in %llu bytes\n",
		shim_is(shim, magic), shim_is(shim, version), channels, size, offset,
		shim_is(shim, max_datagram), room);
	return -ENODEV;
}

static int shim_interrupts(struct shim *shim)
{
	struct pci_dev *pdev = shim->pdev;

	if (!(shim_is(shim, features) & RINGSHIM_HAS_INTERRUPT) ||
	    pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_ALL_TYPES) < 0)
		return 0;
	shim->info.interrupts = pdev->msix_enabled ? RINGSHIM_INTERRUPTS_MSIX :
		pdev->msi_enabled ? RINGSHIM_INTERRUPTS_MSI : RINGSHIM_INTERRUPTS_INTX;
	return devm_request_irq(&pdev->dev, pci_irq_vector(pdev, 0), shim_interrupt, IRQF_SHARED,
				dev_name(&shim->dev), shim);
}

/* Called at unbind. An open node stays, without a device: blank pages, hang-up, EPIPE. */
static void shim_remove(void *cookie)
{
	struct shim *shim = cookie;

	cdev_device_del(&shim->cdev, &shim->dev);
	down_write(&shim->lock);
	shim->gone = true;
	if (shim->mapping)
		unmap_mapping_range(shim->mapping, 0, 0, 1);
	shim_quiet(shim);
	shim_wake(shim);
	up_write(&shim->lock);
}

/* If this fails, or at unbind, devm undoes every step, the last one first. */
static int shim_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct shim *shim = kzalloc(sizeof(*shim), GFP_KERNEL);
	int rc;

	if (!shim)
		return -ENOMEM;
	device_initialize(&shim->dev);
	shim->dev.class = &shim_class;
	shim->dev.parent = &pdev->dev;
	cdev_init(&shim->cdev, &shim_fops);
	init_rwsem(&shim->lock);
	mutex_init(&shim->serial);
	init_waitqueue_head(&shim->wait);
	shim->pdev = pdev;
	shim->info.abi = RINGSHIM_ABI;
	shim->info.kind = id->driver_data ?: RINGSHIM_KIND_FIFO;	/* new_id gives 0 */
	strscpy(shim->info.bus_id, pci_name(pdev), sizeof(shim->info.bus_id));
	rc = devm_add_action_or_reset(&pdev->dev, shim_put_device, &shim->dev) ?:
	     ida_alloc_max(&shim_minors, SHIM_MINORS - 1, GFP_KERNEL);
	if (rc < 0)
		return rc;
	shim->dev.devt = shim_devt + rc;
	rc = dev_set_name(&shim->dev, "ringshim%d", rc) ?: pcim_enable_device(pdev) ?:
	     shim_map(shim, id->driver_data) ?: shim_identify(shim);
	if (rc)
		return rc;
	shim->bounce = kvmalloc(ALIGN(shim_is(shim, max_datagram), 4), GFP_KERNEL);
	shim->blank = (void *)get_zeroed_page(GFP_KERNEL);
	if (!shim->bounce || !shim->blank)
		return -ENOMEM;
	pci_set_master(pdev);
	return shim_interrupts(shim) ?: cdev_device_add(&shim->cdev, &shim->dev) ?:
	       devm_add_action_or_reset(&pdev->dev, shim_remove, shim);
}

static const struct pci_device_id shim_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1110), .driver_data = RINGSHIM_KIND_FIFO },
	{ PCI_DEVICE(0x1234, 0x11e8), .driver_data = RINGSHIM_KIND_DMA },	/* edu */
	{ }
};
MODULE_DEVICE_TABLE(pci, shim_ids);

static struct pci_driver shim_driver = {
	.name = "ringshim", .id_table = shim_ids, .probe = shim_probe
};

static int __init shim_init(void)
{
	int rc = alloc_chrdev_region(&shim_devt, 0, SHIM_MINORS, "ringshim");

	if (rc)
		return rc;
	rc = class_register(&shim_class);
	if (!rc) {
		rc = pci_register_driver(&shim_driver);
		if (rc)
			class_unregister(&shim_class);
	}
	if (rc)
		unregister_chrdev_region(shim_devt, SHIM_MINORS);
	return rc;
}
module_init(shim_init);

static void __exit shim_exit(void)
{
	pci_unregister_driver(&shim_driver);
	class_unregister(&shim_class);
	unregister_chrdev_region(shim_devt, SHIM_MINORS);
}
module_exit(shim_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Devices with the ringweir register map, for one process in user space");
