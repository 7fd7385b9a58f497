// A plain closed-loop generator with epoll, to compare the engine with:
// generator TARGET PORT SOURCE SOURCES CONNECTIONS CONCURRENT
// prints the connections that were answered.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in target;
static unsigned source, sources, started;
static unsigned char request[12 + 64] = {'T', 'F', 1, 0, 0, 0, 0, 64, 0, 0, 0, 64};
static int ep;
static int got[1 << 16];

static int begin(void) {
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0) return -1;
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source + started++ % sources)};
	setsockopt(fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0 ||
	    (connect(fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)) {
		close(fd);
		return -1;
	}
	got[fd] = -1;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
}

int main(int argc, char **argv) {
	if (argc != 7) return 2;
	target.sin_family = AF_INET;
	inet_pton(AF_INET, argv[1], &target.sin_addr);
	target.sin_port = htons(atoi(argv[2]));
	inet_pton(AF_INET, argv[3], &source);
	source = ntohl(source);
	sources = atoi(argv[4]);
	unsigned total = atoi(argv[5]), concurrent = atoi(argv[6]), ended = 0, answered = 0;
	ep = epoll_create1(0);
	while (started < concurrent && started < total) if (begin() < 0) ended++;
	while (ended < total) {
		struct epoll_event evs[256];
		int n = epoll_wait(ep, evs, 256, 5000);
		if (n == 0) break;
		for (int i = 0; i < n; i++) {
			int fd = evs[i].data.fd, over = 0;
			if (evs[i].events & EPOLLERR) {
				over = 1;
			} else {
				if (got[fd] < 0 && evs[i].events & EPOLLOUT) {
					got[fd] = 0;
					over = write(fd, request, sizeof request) != sizeof request;
				}
				if (evs[i].events & EPOLLIN) {
					char buf[65536];
					int r = read(fd, buf, sizeof buf);
					if (r > 0) got[fd] += r;
					if (got[fd] == 8 + 64) answered++, over = 1;
					if (r == 0) over = 1;
				}
			}
			if (!over) continue;
			close(fd);
			ended++;
			while (started < total && begin() < 0) ended++;
		}
	}
	printf("%u\n", answered);
	return 0;
}
