module github.com/seed-29c60982/grouphub

go 1.26.0
